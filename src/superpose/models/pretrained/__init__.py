"""Pretrained models: the registered ones, fetching them once, and loading any reference."""
