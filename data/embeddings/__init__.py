"""Token embeddings of texts: in memory, on disk, or out of an index."""
