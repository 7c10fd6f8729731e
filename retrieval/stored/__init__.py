"""The index on disk, behind `StoredIndex`."""
