"""In-context and token tasks: data distributions that draw episodes from a generator and know their own error."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
