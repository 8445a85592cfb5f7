"""The expensive calls of the study: pure functions of plain data, memoised by the engine."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from superpose.cachedir import dictionaries_dir
from superpose.errors import choose
from superpose.experiment import current, step, track, tracked
from superpose.inference.decode_quality import LexicoMethod, decode_quality
from superpose.inference.dictionaries import Dictionaries, collect_kv
from superpose.inference.dictionary_training import DictionaryTrainer
from superpose.inference.kv_baselines import HeavyHitters, KiviSettings, SinksAndRecent
from superpose.inference.lexico import LexicoCache, lexico_bytes
from superpose.inference.lexico_attention import factored_attention
from superpose.inference.lexico_codes import narrow, widen
from superpose.inference.lexico_store import LexicoSettings, LexicoStore
from superpose.inference.omp import Codes, omp_stack
from superpose.models import LoadedModel, load
from superpose.studies.lexico.texts import windows

RANDOM = "random"
OBSERVED, POOL = 16, 5  # queries that vote and neighbours that are pooled in the SnapKV-like eviction


@step(version="2", label="dictionaries")
def dictionary(
    model: str,
    dtype: str,
    domain: str,
    digest: str,
    count: int,
    length: int,
    atoms: int,
    sparsity: int,
    vectors: int,
    batch: int,
    steps: int,
    lr: float,
    fingerprint: str = "",
) -> dict[str, Any]:
    """Train the dictionaries of a model on a text; ``steps`` 0 samples them.

    Returns:
        ``keys`` and ``values``, ``[layers, dim, atoms]``, their ``fingerprint``, and the ``losses``.
    """
    loaded = load(model, dtype, current().device)
    trainer = DictionaryTrainer(loaded.model, atoms, sparsity, vectors=vectors, batch=batch, lr=lr)
    batches = windows(loaded.tokenizer, domain, count, length).split(1)
    with tracked(steps, f"{atoms} atoms") as move:
        made = trainer.fit(batches, steps, checkpoint=current().folder / "training", progress=move)
    losses = [] if trainer.history is None else np.asarray(trainer.history.losses).tolist()
    return {"keys": made.keys, "values": made.values, "fingerprint": made.fingerprint, "losses": losses}


def keep(made: Mapping[str, Any]) -> str:
    """Put trained dictionaries where every process finds them; the name says what they hold."""
    content = hashlib.sha256(made["keys"].numpy().tobytes() + made["values"].numpy().tobytes()).hexdigest()[:16]
    name = f"{made['fingerprint']['model_type']}-{made['keys'].shape[2]}-{content}"
    if not folder_of(name).exists():
        Dictionaries(made["keys"], made["values"], made["fingerprint"]).save(folder_of(name))
    return name


def folder_of(name: str) -> Path:
    """Where `keep` puts dictionaries."""
    return dictionaries_dir() / name


def _dictionaries(name: str, loaded: LoadedModel) -> Dictionaries:
    kind, _, atoms = name.partition(":")
    if kind == RANDOM:
        return Dictionaries.random(loaded.model, int(atoms)).to(current().device)
    return Dictionaries.load(folder_of(name)).to(current().device)


@step(version="1", label="reconstruction errors")
def errors(
    model: str,
    dtype: str,
    domain: str,
    digest: str,
    count: int,
    length: int,
    dictionaries: str,
    sparsities: Sequence[int],
    fingerprint: str = "",
) -> np.ndarray:
    """Mean relative error of coded keys and values, coefficients in fp8, per window of held-out text.

    Returns:
        ``[sparsities, windows, 2]``: keys, values.
    """
    loaded = load(model, dtype, current().device)
    stack = _dictionaries(dictionaries, loaded).stack()
    texts = windows(loaded.tokenizer, domain, count, length)
    found = np.zeros((len(sparsities), count, 2))
    for at, window in enumerate(track(texts, f"{loaded.name} {domain}")):
        states = torch.cat(collect_kv(loaded.model, [window[None]]))
        for row, sparsity in enumerate(sparsities):
            codes = omp_stack(states, stack, sparsity)
            rounded = Codes(codes.indices, widen(narrow(codes.coefficients, "fp8")[0]), codes.counts)
            found[row, at] = _relative(states, rounded.decode(stack))
    return found


def _relative(states: Tensor, rebuilt: Tensor) -> np.ndarray:
    norms = torch.linalg.vector_norm(states, dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
    ratios = torch.linalg.vector_norm(states - rebuilt, dim=-1) / norms
    return torch.stack([side.mean() for side in ratios.chunk(2)]).double().cpu().numpy()


@step(version="1", label="principal components")
def component_errors(
    model: str,
    dtype: str,
    train: Mapping[str, Any],
    domain: str,
    digest: str,
    count: int,
    length: int,
    components: Sequence[int],
    fingerprint: str = "",
) -> np.ndarray:
    """As `errors`, for so many principal components in fp8 per vector, the basis fitted on the training text.

    Args:
        train: ``domain``, ``digest``, ``count``, ``length`` of that text.
        components: numbers per vector.
    """
    loaded = load(model, dtype, current().device)
    fitted = windows(loaded.tokenizer, train["domain"], train["count"], train["length"]).split(1)
    states = torch.cat(collect_kv(loaded.model, fitted))
    mean = states.mean(1, keepdim=True)
    centred = states - mean
    basis = torch.linalg.eigh(centred.transpose(1, 2) @ centred).eigenvectors.flip(-1)  # largest first
    del states, centred
    found = np.zeros((len(components), count, 2))
    for at, window in enumerate(windows(loaded.tokenizer, domain, count, length)):
        states = torch.cat(collect_kv(loaded.model, [window[None]]))
        for row, number in enumerate(components):
            axes = basis[..., :number]
            coefficients = widen(narrow((states - mean) @ axes, "fp8")[0])
            found[row, at] = _relative(states, mean + coefficients @ axes.transpose(1, 2))
    return found


@step(version="1", label="decoding")
def quality(
    model: str,
    dtype: str,
    domain: str,
    digest: str,
    count: int,
    length: int,
    start: int,
    method: Mapping[str, Any],
    fingerprint: str = "",
) -> dict[str, np.ndarray]:
    """How a model decodes a text token by token on a full or compressed cache.

    Args:
        domain, digest, count, length: the text windows.
        start: first place that is scored.
        method: ``kind`` and its settings, as `method_of` reads them.

    Returns:
        ``nll`` and ``right`` (the target was the likeliest token), and the ``choices``, each ``[windows, scored]``.
    """
    loaded = load(model, dtype, current().device)
    tokens = windows(loaded.tokenizer, domain, count, length).to(loaded.model.device)
    made = _method(method, loaded)
    scored = [decode_quality(loaded.model, w[None], made, start=start) for w in track(tokens, method["kind"])]
    choices = torch.cat([one.choices for one in scored])
    return {
        "nll": torch.cat([one.nll for one in scored]).double().cpu().numpy(),
        "right": (choices == tokens[:, start:]).cpu().numpy(),
        "choices": choices.cpu().numpy(),
    }


def _method(method: Mapping[str, Any], loaded: LoadedModel) -> Any:
    kind = method["kind"]
    choose("kind", kind, ("full", "lexico", "kivi", "sinks", "h2o", "snapkv"))
    if kind == "full":
        return None
    window = {"buffer": method["buffer"], "block": method["block"]}
    if kind == "lexico":
        settings = LexicoSettings(method["sparsity"], method.get("value_sparsity", method["sparsity"]), **window)
        return LexicoMethod(_dictionaries(method["dictionaries"], loaded), settings)
    if kind == "kivi":
        return KiviSettings(bits=method["bits"], group=method["group"], **window)
    if kind == "sinks":
        return SinksAndRecent(method["fraction"], **window)
    if kind == "h2o":
        return HeavyHitters(method["fraction"], **window)
    return HeavyHitters(method["fraction"], observe=OBSERVED, pool=POOL, **window)


@step(version="1", label="bytes of a live cache")
def live_bytes(
    model: str,
    dtype: str,
    domain: str,
    digest: str,
    dictionaries: str,
    sparsities: Sequence[int],
    prompt: int,
    generated: int,
    buffer: int,
    block: int,
    fingerprint: str = "",
) -> dict[str, np.ndarray]:
    """Bytes of a cache that has taken a prompt and single tokens, and what the closed form says.

    Returns:
        ``live`` and ``closed``, ``[sparsities, 2]``, by the paper's count and by the tensors held; ``full``, of a
        float16 cache.
    """
    loaded = load(model, dtype, current().device)
    tokens = windows(loaded.tokenizer, domain, 2, prompt + generated).to(loaded.model.device)
    made = _dictionaries(dictionaries, loaded)
    live, closed, full = [], [], 0
    for sparsity in track(sparsities, "live caches"):
        settings = LexicoSettings(sparsity, sparsity, buffer=buffer, block=block)
        cache = LexicoCache(loaded.model, made, settings)
        with torch.inference_mode():
            for piece in (tokens[:, :prompt], *tokens[:, prompt:].split(1, dim=1)):
                loaded.model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        width = next(loaded.model.parameters()).element_size()
        live.append([cache.bytes(convention).total for convention in ("paper", "layout")])
        closed.append(
            [
                lexico_bytes(cache.shape, settings, prompt, generated, len(tokens), convention, width)
                for convention in ("paper", "layout")
            ]
        )
        full = cache.bytes().full
    return {"live": np.array(live), "closed": np.array(closed), "full": np.array(full)}


@step(version="1", label="factored attention")
def factored_gap(seed: int, sparsities: Sequence[int], dim: int, atoms: int, tokens: int) -> float:
    """Largest difference between attention through random codes and attention over what they stand for, float32."""
    device = current().device
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    batch, heads, groups, exact = 2, 3, 3, 7
    worst = 0.0
    for sparsity in sparsities:
        key_atoms, value_atoms = (functional.normalize(draw(atoms, dim), dim=-1) for _ in range(2))
        store = LexicoStore(key_atoms, value_atoms, LexicoSettings(sparsity, sparsity, buffer=exact, block=1))
        store.append(draw(batch, heads, tokens, dim), draw(batch, heads, tokens, dim))
        query, keys, values = draw(batch, heads * groups, 1, dim), *(draw(batch, heads, exact, dim) for _ in range(2))
        far_keys, far_values = store.read()
        dense = functional.scaled_dot_product_attention(
            query, torch.cat([far_keys, keys], 2), torch.cat([far_values, values], 2), enable_gqa=True
        )
        worst = max(worst, float((factored_attention(query, keys, values, store) - dense).abs().max()))
    return worst
