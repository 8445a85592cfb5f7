"""Transformers whose weights are written down rather than trained: what an architecture can express."""
