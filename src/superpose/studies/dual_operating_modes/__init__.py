"""Dual operating modes of in-context learning: an exact predictor that retrieves and learns (arXiv 2402.18819)."""
