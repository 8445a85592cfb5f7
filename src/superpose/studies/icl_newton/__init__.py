"""Transformers that run Newton's method in context: built ones, and trained ones beside them (arXiv 2403.03183)."""
