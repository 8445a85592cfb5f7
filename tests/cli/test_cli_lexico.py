"""``superpose lexico`` on the tiny random model."""

import json
import sys
from pathlib import Path

import pytest

from superpose.cli import main
from superpose.inference import Dictionaries


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["superpose", "lexico", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The quick brown fox jumps over the lazy dog. " * 30, encoding="utf-8")
    return path


def _fit(monkeypatch: pytest.MonkeyPatch, text: Path, out: Path, *more: str) -> int:
    options = ["--atoms", "24", "--sparsity", "2", "--steps", "2", "--length", "64", "--vectors", "500", "-q"]
    return _run(monkeypatch, "fit", "random-llama", "--text", str(text), "--out", str(out), *options, *more)


def test_fit_and_eval(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path, text: Path):
    out = tmp_path / "dictionary"
    assert _fit(monkeypatch, text, out) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert Dictionaries.load(out).atoms == 24
    options = ["--sparsities", "1,4", "--windows", "2", "--length", "48", "--buffer", "8", "--block", "4", "-q"]
    asked = ["eval", "random-llama", "--dictionary", str(out), "--text", str(text), *options]
    assert _run(monkeypatch, *asked, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["cache"] for row in rows] == ["full", "s=1", "s=4"]
    assert rows[1]["bytes"] < rows[2]["bytes"] < rows[0]["bytes"]
    assert rows[1]["key_error"] > rows[2]["key_error"]
    assert _run(monkeypatch, *asked) == 0
    assert "perplexity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--sparsity", "9"], "sparsity is 9; allowed: 1 to 8"),
        (["--atoms", "100000"], "atoms is 100000"),
        (["--length", "100000"], "one window needs 100000"),
        (["--text", "nowhere.txt"], "'nowhere.txt', which is not a file"),
    ],
)
def test_bad_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    tmp_path: Path,
    text: Path,
    change: list[str],
    message: str,
):
    assert _fit(monkeypatch, text, tmp_path / "d", *change) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "d").exists()


def test_never_overwrites_other_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, text: Path):
    assert _fit(monkeypatch, text, text.parent) == 2
    assert "holds 'text.txt'" in capsys.readouterr().err


def test_eval_refuses_what_is_no_dictionary(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, text: Path):
    asked = ["eval", "random-llama", "--dictionary", str(text.parent), "--text", str(text)]
    assert _run(monkeypatch, *asked) == 2
    assert "which has no dictionaries.safetensors" in capsys.readouterr().err
    assert _run(monkeypatch, *asked, "--sparsities", "a") == 2
    assert "--sparsities is 'a'" in capsys.readouterr().err
