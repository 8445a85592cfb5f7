"""The Lexico study: its text, its measures on made-up numbers, and its plumbing on a tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from study_checks import in_step
from superpose.errors import InputError
from superpose.experiment.study import Study
from superpose.models import load
from superpose.studies import get_study
from superpose.studies.lexico import steps, texts
from superpose.studies.lexico.config import AWAY, FAR, HOME, TRAIN, Config
from superpose.studies.lexico.decode_measures import _compression, buffers, increase
from superpose.studies.lexico.measures import _largest

MODEL = {"model": "random-llama", "dtype": "float32"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path))


def _study() -> Study:
    return get_study("lexico")


def test_every_claim_of_the_paper_is_declared():
    assert [claim.id for claim in _study().claims] == [f"L{i}" for i in range(1, 9)]


def test_held_out_text_is_not_trained_on():
    held_out, trained = (texts.text(domain).split("\n\n") for domain in (HOME, TRAIN))
    assert not set(held_out) & set(trained)
    sizes = {domain: len(texts.text(domain)) for domain in (TRAIN, HOME, AWAY, FAR)}
    assert min(sizes.values()) > 30_000
    assert len({texts.digest(domain) for domain in sizes}) == 4
    with pytest.raises(InputError, match="domain is 'news'"):
        texts.text("news")


def test_windows_do_not_overlap_and_too_many_are_refused():
    tokenizer = load("random-llama").tokenizer
    found = texts.windows(tokenizer, AWAY, 5, 100)
    assert found.shape == (5, 100)
    whole = str(tokenizer.decode(found[0]))
    assert texts.text(AWAY).startswith(whole)
    with pytest.raises(InputError, match="windows is 100000 of 1000 tokens"):
        texts.windows(tokenizer, AWAY, 100_000, 1000)


def test_copies_repeat_their_words():
    tokenizer = load("random-llama").tokenizer
    rows = texts.windows(tokenizer, texts.COPY, 3, 25)
    assert rows.shape == (3, 25)
    assert torch.equal(rows[:, :12], rows[:, 13:])
    assert not torch.equal(rows[0], rows[1])


def test_buffers_spend_the_same_bytes():
    points = buffers((1, 2, 4, 6, 8, 10), 0.25, 320, 64)
    assert points[0][1] > 0 and points[-1] == (10, 0)
    for sparsity, tokens in points:
        spent = tokens * 128 + (320 - tokens) * (3 * sparsity + 2)
        assert abs(spent - 0.25 * 320 * 128) <= 128


def test_compression_interpolates_bytes_at_equal_quality():
    ratio = _compression([0.1, 0.2, 0.4], 0.3)

    def rows(target: float, *ours: float) -> np.ndarray:
        return np.array([[target, *ours]] * 3)

    assert ratio(rows(2.5, 3.0, 2.0, 1.0)) == pytest.approx(0.3 / 0.15)
    assert ratio(rows(4.0, 3.0, 2.0, 1.0)) == pytest.approx(3.0)
    assert ratio(rows(0.5, 3.0, 2.0, 1.0)) == 0
    # A code that spends more and is worse does not make bytes cheaper.
    assert ratio(rows(2.0, 3.0, 2.0, 2.1)) == pytest.approx(0.3 / 0.2)


def test_largest_difference_is_the_worst_of_all():
    rows = np.full((2, 4, 2), -1.0)
    rows[1, :, 1] = -0.25
    assert _largest("x", rows).value == -0.25
    assert increase("x", np.log([3.0, 3.0]), np.log([2.0, 2.0])).value == pytest.approx(0.5)


def test_config_refuses_what_cannot_be_measured():
    for wrong, message in (
        ({"sparsity": 7}, "one of sparsities"),
        ({"sparsities": (8, 4)}, "ascending"),
        ({"block": 24}, "multiple of group"),
        ({"start": 20}, "between buffer"),
    ):
        with pytest.raises(ValueError, match=message):
            Config.model_validate(wrong)


def test_dictionaries_are_kept_under_their_content():
    made = steps.Dictionaries.random(load("random-llama").model, 16)
    output = {"keys": made.keys, "values": made.values, "fingerprint": made.fingerprint}
    name = steps.keep(output)
    assert steps.keep(output) == name and name.startswith("llama-16-")
    again = steps.Dictionaries.load(steps.folder_of(name))
    assert torch.equal(again.keys, made.keys)


def test_errors_of_a_full_code_are_those_of_its_coefficients():
    arguments: dict[str, Any] = {
        **MODEL,
        "domain": HOME,
        "digest": "",
        "count": 2,
        "length": 8,
        "dictionaries": "random:64",
    }
    with in_step(Path()):
        found = steps.errors(**arguments, sparsities=[1, 8])
    assert found.shape == (2, 2, 2)
    assert (found[1] < found[0]).all()
    assert found[1].max() < 0.05  # eight atoms span eight dimensions; fp8 rounds them


def test_live_bytes_equal_the_closed_form():
    with in_step(Path()):
        found = steps.live_bytes(
            **MODEL,
            domain=HOME,
            digest="",
            dictionaries="random:16",
            sparsities=[1, 3],
            prompt=20,
            generated=9,
            buffer=8,
            block=4,
        )
        gap = steps.factored_gap(0, [2], 16, 64, 40)
    assert (found["live"] == found["closed"]).all()
    assert gap < 1e-5


def test_unknown_method_is_refused():
    with in_step(Path()), pytest.raises(InputError, match="kind is 'magic'"):
        steps.quality(**MODEL, domain=HOME, digest="", count=2, length=12, start=4, method={"kind": "magic"})
