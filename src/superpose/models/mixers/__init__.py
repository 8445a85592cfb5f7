"""Mixers: one file each, found through ``MIXERS``. A new one is its file and its line here."""

from . import attention, h3, linear_attention, mamba  # noqa: F401  (each enters itself into the registry)
from .base import MIXERS as MIXERS
from .base import Mixer as Mixer
from .base import mixer as mixer
from .base import register as register
