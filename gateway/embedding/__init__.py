"""Text → unit vectors, and the one thread that owns the embedder, the classifier and the indexes."""
