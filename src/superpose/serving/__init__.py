"""The OpenAI-compatible server: an ASGI application on an engine that runs batches of requests."""

import lazy_loader as _lazy

from superpose.errors import require as _require

for _module in ("fastapi", "prometheus_client"):
    _require(_module, "serve")

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
