"""Bad usage of ``superpose serve``: one sentence, exit code 2, before a model is loaded."""

import sys

import pytest

from superpose import cli
from tiny import tiny_llama_dir


@pytest.fixture
def serve(monkeypatch, capsys):
    monkeypatch.setattr("superpose.models.load", lambda *_, **__: pytest.fail("the model must not be loaded"))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["superpose", "serve", *arguments])
        code = cli._run()
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--cache", "static"], "--cache is 'static'; allowed: dynamic, lexico"),
        (["m", "--batching", "best"], "--batching is 'best'; allowed: fcfs, multi-bin, continuous"),
        (["m", "--bins", "4"], "--bins is '4', but --batching is 'fcfs'"),
        (["m", "--batching", "multi-bin", "--bins", "0"], "--bins is '0'; allowed: a number of bins"),
        (["m", "--batching", "multi-bin", "--bins", "64,32"], "--bins is '64,32'"),
        (["m", "--batching", "multi-bin", "--bins", "32,5000"], "between 1 and 1024"),
        (["m", "--batching", "multi-bin", "--bins", "few"], "--bins is 'few'"),
        (["m", "--cache", "lexico", "--batching", "continuous"], "--cache is 'lexico', but --batching continuous"),
        (["m", "--dictionary", "d"], "--dictionary is given, but --cache is 'dynamic'"),
        (["m", "--sparsity", "4"], "--sparsity is given"),
        (["m", "--cache", "lexico"], "--dictionary is missing, and there is no ./lexico-dictionary"),
        (["m", "--cache", "lexico", "--dictionary", "no-such"], "no-such"),
        (["m", "--max-batch", "0"], "--max-batch is 0; allowed: 1 or more"),
        (["m", "--max-wait", "-1"], "--max-wait is -1"),
        (["m", "--max-wait", "nan"], "--max-wait is nan"),
        (["m", "--queue", "0"], "--queue is 0"),
        (["m", "--timeout", "0"], "timeout is 0"),
        (["m", "--max-tokens", "0"], "max_tokens is 0"),
        (["m", "--api-key-file", "/no/such/file"], "--api-key-file is '/no/such/file', which cannot be read"),
        (["m", "--device", "tpu"], "--device is 'tpu'"),
        (["m", "--port", "70000"], "70000 is not in the range"),
        ([], "Missing argument"),
        (["m", "--port", "x"], "Invalid value for '--port'"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(serve, arguments, message):
    code, out, err = serve(*arguments)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())


def test_a_missing_extra_names_the_pip_command(serve, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, _, err = serve("m")
    assert code == 2
    assert "pip install 'superpose[serve]'" in err


def test_an_unknown_model_is_bad_usage(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["superpose", "serve", "./no-such-folder"])
    assert cli._run() == 2
    assert "no such folder or file" in capsys.readouterr().err


def test_a_port_in_use_is_bad_usage(monkeypatch, capsys, tmp_path):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        folder = tiny_llama_dir(tmp_path / "tiny")
        monkeypatch.setattr(sys, "argv", ["superpose", "serve", str(folder), "--port", str(taken.getsockname()[1])])
        assert cli._run() == 2
    assert "cannot be listened at: Address already in use" in capsys.readouterr().err
