"""Exact predictors and closed forms: tensors in, tensors out; no model, no sampler."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
