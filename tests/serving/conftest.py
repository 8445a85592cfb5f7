"""A tiny Llama behind the whole stack, shared by the tests of a file."""

from collections.abc import Iterator

import pytest

from serving_tools import Running, running, tiny_engine, tiny_loaded
from superpose.models import LoadedModel


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return tiny_loaded()


@pytest.fixture(scope="module")
def server(loaded) -> Iterator[Running]:
    with running(tiny_engine(loaded, edges=[1, 8, 16, 200])) as it:
        yield it
