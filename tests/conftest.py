"""Settings of the whole test session."""

import os

import pytest

# Tests run side by side: more threads than cores each would only make them wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    import torch

    torch.set_num_threads(1)
