"""An index in Qdrant: a cluster, a folder or memory."""
