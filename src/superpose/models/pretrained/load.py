"""Turn a model reference into a model: a registered name, a local folder, a GGUF file, a hub id, or a random model."""

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from superpose.errors import InputError, choose
from superpose.models.pretrained.fetch import FetchError, Progress, get, is_cached, model_dir, quiet_transformers
from superpose.models.pretrained.random_model import RANDOM_FINGERPRINT, RANDOM_MODEL, RANDOM_NOTE, random_model
from superpose.models.pretrained.registry import REGISTERED, find_registered

if TYPE_CHECKING:
    import torch
    import transformers

DTYPES = ("float32", "bfloat16", "float16")
KEPT_MODELS = 2

_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tokenizer_config.json")
_WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin")
_IDENTITY_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt", *_WEIGHT_PATTERNS)
_FORMS = f"a registered name, a local folder, a .gguf file, a hub id owner/name[@revision], or {RANDOM_MODEL}"


@dataclass(frozen=True)
class ResolvedModel:
    """What a reference names, found without loading weights.

    Attributes:
        kind: how it is loaded.
        name: short name for tables: the registered name, the folder's or file's name, or the hub id.
        path: where it stands, None for a hub id or the random model; a registered model's folder may not exist yet.
        fingerprint: changes when the weights may have changed: the GGUF's sha256 for a registered model; for a
            folder or file a hash over the names, sizes and modification times (ns) of its configuration, tokenizer
            and weight files; the id and revision for the hub.
        note: what a reader of results must know about these weights; may be empty.
        revision: of a hub id.
    """

    kind: Literal["registered", "folder", "gguf", "hub", "random"]
    name: str
    path: Path | None
    fingerprint: str
    note: str = ""
    revision: str | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in eval mode whose weights take no gradients, and its tokenizer.

    Attributes:
        model: the `transformers` model.
        tokenizer: its tokenizer.
        name: short name for tables.
        note: what a reader of results must know about these weights; may be empty.
        fingerprint: identity of the weights, see `ResolvedModel`.
    """

    model: "transformers.PreTrainedModel"
    tokenizer: "transformers.PreTrainedTokenizerBase"
    name: str
    note: str
    fingerprint: str


def resolve(reference: str | Path) -> ResolvedModel:
    """Find out what a model reference names; loads nothing and needs no network.

    A registered name or alias comes first, then anything that exists on disk, then a hub id.

    Raises:
        InputError: the reference names nothing known, or a path that is not a model.
    """
    text = str(reference)
    entry = find_registered(text) if isinstance(reference, str) else None
    if entry is not None:
        return ResolvedModel("registered", entry.name, model_dir(entry), entry.gguf_sha256, entry.note)
    if reference == RANDOM_MODEL:
        return ResolvedModel("random", RANDOM_MODEL, None, RANDOM_FINGERPRINT, RANDOM_NOTE)
    path = Path(text).expanduser()
    if text and path.is_dir():
        _check_folder(path)
        return ResolvedModel("folder", path.resolve().name, path, _fingerprint(_identity_files(path)))
    if text and path.is_file():
        _check_gguf(path)
        return ResolvedModel("gguf", path.stem, path, _fingerprint([path]), "dequantised from a GGUF file")
    hub = _HUB_ID.fullmatch(text)
    if isinstance(reference, Path) or text.startswith((".", "/", "~", "\\")) or path.suffix == ".gguf":
        raise InputError(f"model is {text!r}, but there is no such folder or file")
    if hub is None:
        listed = ", ".join(name for entry in REGISTERED.values() for name in (entry.name, *entry.aliases))
        raise InputError(f"model is {text!r}; allowed: {_FORMS}; registered names: {listed}")
    revision = hub["revision"] or "main"
    return ResolvedModel("hub", hub["id"], None, f"{hub['id']}@{revision}", "", revision)


def load(
    reference: str | Path, dtype: str = "float32", device: str = "cpu", progress: Progress | None = None
) -> LoadedModel:
    """Load a causal language model and its tokenizer, ready to be measured.

    A registered model is fetched on first use if its licence is open. The last two loaded models are kept in
    memory, so loading the same one again is free; they are shared, so do not train them.

    Args:
        reference: a registered name, a local folder, a ``.gguf`` file, a hub id ``owner/name[@revision]``, or
            ``random-llama``, a tiny model with random weights that tries commands without a download.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        device: as torch names it, or ``auto``: CUDA if there is one.
        progress: called with one line of text at each stage of a fetch.

    Raises:
        InputError: unknown reference, a path that is not a model, a licence still to be accepted, wrong dtype
            or device.
        FetchError: a download failed, or a hub id cannot be reached.
    """
    choose("dtype", dtype, DTYPES)
    place = _device(device)
    resolved = resolve(reference)
    key = (resolved.fingerprint, dtype, str(place))
    with _lock:
        if key not in _loaded:
            if resolved.kind == "registered" and not is_cached(resolved.name):
                get(resolved.name, progress=progress)
            _loaded[key] = _read(resolved, dtype, place)
        _loaded.move_to_end(key)
        while len(_loaded) > KEPT_MODELS:
            _loaded.popitem(last=False)
        return _loaded[key]


_lock = threading.Lock()
_loaded: "OrderedDict[tuple[str, str, str], LoadedModel]" = OrderedDict()


def _device(name: str) -> "torch.device":
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def _read(resolved: ResolvedModel, dtype: str, device: "torch.device") -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if resolved.kind == "random":
        built, tokenizer = random_model()
        return _ready(built.to(getattr(torch, dtype)), tokenizer, resolved, device)
    options: dict[str, Any] = {"trust_remote_code": False}
    source: str | Path
    if resolved.path is None:
        source = _hub_source(resolved)
        options["revision"] = resolved.revision
    elif resolved.kind == "gguf":
        source = resolved.path.parent
        options["gguf_file"] = resolved.path.name
    else:
        source = resolved.path
    try:
        with quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, dtype=getattr(torch, dtype), output_loading_info=True, **options
            )
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # Whatever is wrong with files that others wrote surfaces as one of many kinds of exception, safetensors'
    # own (a bare Exception) among them; all of them become one sentence, with the cause attached.
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(
            f"model {resolved.name} cannot be read as a causal language model: {type(error).__name__}: {reason}"
        ) from error
    model, info = loaded
    if info["missing_keys"]:
        raise InputError(
            f"model {resolved.name} lacks {len(info['missing_keys'])} of its weights, "
            f"for example {min(info['missing_keys'])}"
        )
    return _ready(model, tokenizer, resolved, device)


def _ready(model: Any, tokenizer: Any, resolved: ResolvedModel, device: "torch.device") -> LoadedModel:
    model = model.to(device).eval().requires_grad_(False)
    return LoadedModel(model, tokenizer, resolved.name, resolved.note, resolved.fingerprint)


def _hub_source(resolved: ResolvedModel) -> str:
    """Return the hub id, or the local snapshot's folder where the hub cannot be reached.

    The hub is asked once, briefly: `from_pretrained` while offline retries file after file for most of a minute.
    """
    from huggingface_hub import HfApi, errors, snapshot_download

    try:
        HfApi().model_info(resolved.name, revision=resolved.revision, timeout=10)
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        gated = isinstance(error, errors.GatedRepoError)
        state = "is gated: accept its terms on the hub and log in" if gated else "is not on the hub"
        raise InputError(f"model {resolved.fingerprint} {state}") from error
    # No connection, offline mode, a proxy's or the hub's own trouble: the transport library under the hub client
    # changes between its versions, so its exceptions cannot be named.
    except Exception as error:
        try:
            return snapshot_download(resolved.name, revision=resolved.revision, local_files_only=True)
        except OSError:
            raise FetchError(
                f"model {resolved.fingerprint} is not in the local hub cache, and the hub cannot be reached "
                f"({type(error).__name__}); offline use a registered model, a folder or a .gguf file"
            ) from error
    return resolved.name


def _check_folder(folder: Path) -> None:
    missing = []
    if not (folder / "config.json").is_file():
        missing.append("config.json")
    if not any(path for pattern in _WEIGHT_PATTERNS for path in folder.glob(pattern)):
        missing.append("weights (*.safetensors)")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        missing.append("tokenizer (tokenizer.json)")
    if missing:
        ggufs = sorted(folder.glob("*.gguf"))
        hint = f"; it holds {ggufs[0].name}: give that file itself" if ggufs else ""
        raise InputError(f"model is {str(folder)!r}, which is not a model: no {', no '.join(missing)}{hint}")


def _check_gguf(path: Path) -> None:
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != b"GGUF":
        raise InputError(
            f"model is {str(path)!r}, which is not a GGUF file (it does not begin with 'GGUF'); allowed: {_FORMS}"
        )


def _identity_files(folder: Path) -> list[Path]:
    return sorted({path for pattern in _IDENTITY_PATTERNS for path in folder.glob(pattern)})


def _fingerprint(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
