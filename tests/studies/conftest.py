"""What the studies' tests share."""

import pytest

from superpose.experiment import Options, Progress, StepCache, Store
from tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def options(tmp_path):
    """A store and a step cache of the test's own."""
    return Options(Store(tmp_path / "store"), cache=StepCache(tmp_path / "cache"), progress=Progress(quiet=True))


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """A tiny random Llama as a local folder."""
    folder = tmp_path_factory.mktemp("tiny-llama")
    tiny_model("llama", max_position_embeddings=2048).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
