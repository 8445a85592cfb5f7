"""Mechanics of next-token prediction: what one attention layer learns, read off a graph (arXiv 2403.08081)."""
