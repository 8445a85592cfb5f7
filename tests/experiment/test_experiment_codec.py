import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from superpose.experiment import codec
from superpose.experiment.cache import CorruptStepWarning, StepCache


def through(value, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    codec.save(value, folder)
    return codec.load(folder)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -(2**70),
        0.1 + 0.2,
        5e-324,
        math.inf,
        -math.inf,
        "",
        "naïve 🦜 \ud800 line\nbreak",  # a lone surrogate, as broken detokenisation makes
        [],
        {},
        {"a": [1, 2.0, None, {"é": [True, "x"]}], "b": {"c": {}}},
    ],
)
def test_plain_values_come_back_as_they_were(value, tmp_path):
    again = through(value, tmp_path)
    assert again == value
    assert type(again) is type(value)


def test_what_json_cannot_tell_apart_comes_back_normalised(tmp_path):
    again = through({"t": (1, (2,)), "f": np.float32(0.5), "i": np.int64(3), "b": np.True_, "p": Path("a/b")}, tmp_path)
    assert again == {"t": [1, [2]], "f": 0.5, "i": 3, "b": True, "p": "a/b"}
    assert [type(v) for v in again.values()] == [list, float, int, bool, str]


def test_nan_and_minus_zero(tmp_path):
    nan, zero = through([math.nan, -0.0], tmp_path)
    assert math.isnan(nan)
    assert math.copysign(1, zero) == -1


@pytest.mark.parametrize(
    "array",
    [
        np.array(1.5),
        np.array(True),
        np.zeros((0,)),
        np.zeros((3, 0, 2), np.float32),
        np.arange(6).reshape(2, 3),
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1)[:, ::-1],
        np.array([[True], [False]]),
        np.array([0, 255], np.uint8),
        np.array([-(2**63), 2**63 - 1]),
        np.array([math.nan, math.inf, -math.inf, -0.0]),
        np.array([1.0, 2.0], np.float16),
        np.array([1.0, 2.0], ">f8"),
    ],
    ids=lambda a: f"{a.dtype}{list(a.shape)}",
)
def test_arrays_come_back_bitwise(array, tmp_path):
    again = through({"deep": [array]}, tmp_path)["deep"][0]
    assert again.shape == array.shape
    assert again.dtype == array.dtype.newbyteorder("=")
    assert again.tobytes() == array.astype(array.dtype.newbyteorder("=")).tobytes()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(1.5),
        torch.tensor(1.5, dtype=torch.bfloat16),
        torch.zeros(2, 0),
        torch.arange(6.0, requires_grad=True),
        torch.arange(6).reshape(2, 3).T,
        torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)[:, ::2],
        torch.tensor([True, False]),
        torch.tensor([1.0], dtype=torch.float16),
        torch.tensor([math.nan, math.inf], dtype=torch.bfloat16),
    ],
    ids=lambda t: f"{t.dtype}{list(t.shape)}",
)
def test_tensors_come_back_bitwise(tensor, tmp_path):
    again = through([tensor], tmp_path)[0]
    assert again.dtype == tensor.dtype
    assert again.shape == tensor.shape
    assert not again.requires_grad
    bits = torch.int16 if tensor.element_size() == 2 else torch.uint8 if tensor.element_size() == 1 else tensor.dtype
    assert torch.equal(again.view(bits), tensor.detach().contiguous().view(bits))


def test_tables_come_back(tmp_path):
    tables = [pa.table({"x": [1, None], "s": ["a", "é"]}), pa.table({"x": pa.array([], pa.float32())})]
    again = through({"tables": tables}, tmp_path)["tables"]
    assert all(a.equals(b) and a.schema == b.schema for a, b in zip(again, tables, strict=True))


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1: 2},
        {"$array": 1},
        {1, 2},
        b"bytes",
        np.array(["text"]),
        np.array([object()]),
        np.array([1j]),
        torch.tensor([1j]),
        torch.tensor([1.0]).to(torch.float8_e4m3fn),
        torch.eye(2).to_sparse(),
        lambda: 0,
    ],
    ids=lambda v: type(v).__name__,
)
def test_outputs_that_cannot_be_stored_are_refused(value):
    with pytest.raises(TypeError, match="a step returned"):
        codec.check([value])


RICH = {"array": np.arange(50.0), "tensor": torch.ones(3), "table": pa.table({"x": [1, 2]}), "text": "word", "n": 1}


def damages(folder):
    """Every file of the folder: missing, empty, cut in half, one byte changed at several places; and one too many."""
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        yield f"{path.name} missing", lambda p=path: p.unlink()
        for keep in (0, 1, len(whole) // 2, len(whole) - 1):
            yield f"{path.name} cut to {keep}", lambda p=path, w=whole, k=keep: p.write_bytes(w[:k])
        for at in {0, len(whole) // 3, len(whole) // 2, len(whole) - 1}:
            changed = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            yield f"{path.name} changed at {at}", lambda p=path, c=changed: p.write_bytes(c)
        yield f"{path.name} is another JSON", lambda p=path: p.write_text("{}")
        yield f"{path.name} is another type", lambda p=path: p.write_text("[1]")
    yield "a file too many", lambda: (folder / "t7.parquet").write_bytes(b"")


def test_every_damage_is_noticed_named_and_repaired(tmp_path):
    cache = StepCache(tmp_path)
    cache.put("k", RICH)
    folder = tmp_path / "done" / "k"
    intact = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(intact) == 4
    count = 0
    for what, damage in list(damages(folder)):
        for path in folder.iterdir():
            path.unlink()
        for name, content in intact.items():
            (folder / name).write_bytes(content)
        damage()
        with pytest.raises(codec.CorruptOutput, match="k"):
            codec.load(folder)
        with pytest.warns(CorruptStepWarning, match="cached step damaged"):
            assert cache.get("k") == (False, None), what
        assert cache.get("k") == (False, None)  # and now it is gone, without a word
        again = cache.put("k", RICH)
        assert again["text"] == "word"
        assert cache.get("k")[0]
        count += 1
    assert count > 35


def test_a_file_or_an_empty_folder_in_an_outputs_place_is_damage(tmp_path):
    cache = StepCache(tmp_path)
    for make in (lambda p: p.mkdir(), lambda p: p.write_text("?")):
        make(tmp_path / "done" / "k")
        with pytest.warns(CorruptStepWarning):
            assert cache.get("k") == (False, None)
        assert cache.put("k", 3) == 3
        cache.drop("k")


def test_a_fresh_output_is_what_a_later_reader_sees(tmp_path):
    cache = StepCache(tmp_path)
    fresh = cache.put("k", {"pair": (1, 2), "zero": np.array(2.0), "t": torch.tensor(1, dtype=torch.int8)})
    found, later = StepCache(tmp_path).get("k")
    assert found
    assert fresh["pair"] == later["pair"] == [1, 2]
    assert fresh["zero"].shape == later["zero"].shape == ()
    assert fresh["t"].dtype == later["t"].dtype == torch.int8
    fresh["zero"][...] = 5  # an output is the caller's own
    assert cache.get("k")[1]["zero"] == 2.0


def test_an_output_that_cannot_be_stored_leaves_nothing(tmp_path):
    cache = StepCache(tmp_path)
    with pytest.raises(TypeError):
        cache.put("k", [np.arange(3), object()])
    assert cache.get("k") == (False, None)
    assert not list((tmp_path / "partial").iterdir())


def test_size_and_clear(tmp_path):
    cache = StepCache(tmp_path)
    assert cache.size() == (0, 0)
    for key in ("a", "b", "c"):
        cache.put(key, np.arange(1000.0))
    (tmp_path / "work" / "d").mkdir()
    (tmp_path / "work" / "d" / "checkpoint").write_bytes(b"x" * 100)
    (tmp_path / "partial" / "e--0123").mkdir()
    count, size = cache.size()
    assert count == 3
    assert size > 24_000
    with cache.lock("a"):
        assert StepCache(tmp_path).clear() == 2
    assert cache.get("a")[0]
    assert [path.name for path in (tmp_path / "done").iterdir()] == ["a"]
    assert not list((tmp_path / "work").iterdir())
    assert not list((tmp_path / "partial").iterdir())


def test_what_a_killed_writer_left_is_swept_by_the_next(tmp_path):
    cache = StepCache(tmp_path)
    left = tmp_path / "partial" / "k--01234567"
    left.mkdir()
    (left / "output.json").write_text("half")
    cache.put("k", 1)
    assert not list((tmp_path / "partial").iterdir())


def test_no_pickle_anywhere(tmp_path):
    cache = StepCache(tmp_path)
    cache.put("k", RICH)
    assert {p.suffix for p in (tmp_path / "done" / "k").iterdir()} == {".json", ".safetensors", ".parquet"}
    assert json.loads((tmp_path / "done" / "k" / "output.json").read_text())["text"] == "word"
