"""Training: one loop, and on it the in-context trainer, curricula, objectives and many models at once."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
