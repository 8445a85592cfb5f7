"""Cheaper inference on real models: compressed key-value caches, and batching by predicted length."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
