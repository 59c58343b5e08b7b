"""Nearest neighbours inside one compatibility partition: exact while small, HNSW above, one owner thread."""
