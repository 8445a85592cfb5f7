"""The report: reads runs only, and makes the site, the figures, the tables and the SQL view of them."""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
