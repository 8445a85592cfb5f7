"""Looped transformers: one block applied many times learns an iterative algorithm (arXiv 2311.12424)."""
