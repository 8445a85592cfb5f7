"""The runtime type checker of the tests: beartype with the numeric tower, so that 1 may stand for 1.0."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
