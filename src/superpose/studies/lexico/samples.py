"""What several measures share: the model, its dictionaries, and the rows of the decoding table."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from superpose.experiment import Run
from superpose.models import resolve
from superpose.studies.language_models import available
from superpose.studies.lexico import steps, texts
from superpose.studies.lexico.config import FRACTION, HOME, TRAIN, Config

KIVI = "kivi2"
EVICTIONS = ("sinks", "h2o", "snapkv")


def place(run: Run[Config], model: str | None = None) -> dict[str, str]:
    """The arguments that say which model a step loads; the main one is fetched now if it has to be."""
    name = available(run, run.config.model)[0] if model is None else model
    return {"model": name, "dtype": run.config.dtype, "fingerprint": resolve(name).fingerprint}


def text(domain: str) -> dict[str, str]:
    """The arguments that say which text a step reads."""
    return {"domain": domain, "digest": texts.digest(domain)}


def trained(run: Run[Config], model: str | None = None, atoms: int | None = None, updates: int | None = None) -> str:
    """The name of a model's dictionaries; one step per size, shared by every claim."""
    c = run.config
    made = run.step(
        steps.dictionary,
        **place(run, model),
        **text(TRAIN),
        count=c.train_windows,
        length=c.train_length,
        atoms=c.atoms if atoms is None else atoms,
        sparsity=c.train_sparsity,
        vectors=c.train_vectors,
        batch=c.train_batch,
        steps=c.train_steps if updates is None else updates,
        lr=c.train_lr,
    )
    return steps.keep(made)


def head_dim(run: Run[Config]) -> int:
    """Numbers per key or value of the main model."""
    return steps.Dictionaries.load(steps.folder_of(trained(run))).dim


def vector_bytes(sparsity: int) -> int:
    """The paper's bytes of one coded vector: fp8 coefficients, 16-bit indices, a 16-bit offset."""
    return 3 * sparsity + 2


def lexico(run: Run[Config], sparsity: int, **other: int) -> dict[str, Any]:
    """A Lexico cache as a step takes it, with the window of all compared methods.

    Args:
        run: of the study.
        sparsity: of keys and values.
        other: another ``buffer``, ``block`` or ``value_sparsity``.
    """
    return {"kind": "lexico", "dictionaries": trained(run), "sparsity": sparsity, **_window(run), **other}


def rivals(run: Run[Config]) -> dict[str, dict[str, Any]]:
    """What Lexico is compared with, by name, as a step takes it."""
    window = _window(run)
    quantised = {f"kivi{bits}": {"kind": "kivi", "bits": bits, "group": run.config.group, **window} for bits in (2, 4)}
    evicting = {kind: {"kind": kind, "fraction": FRACTION, **window} for kind in EVICTIONS}
    return {**quantised, **evicting}


def far_bytes(run: Run[Config], name: str) -> float:
    """Bytes of a rival's far part over those of float16."""
    if name.startswith("kivi"):
        return (int(name[-1]) + 32 / run.config.group) / 16
    return FRACTION


def _window(run: Run[Config]) -> dict[str, int]:
    return {"buffer": run.config.buffer, "block": run.config.block}


def decoded(run: Run[Config], domain: str, methods: Sequence[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """How the main model decodes a domain's windows by each method."""
    c = run.config
    common = {**place(run), **text(domain)}
    if domain == texts.COPY:
        # The first word of the copy cannot be known; from the second on it can.
        shape = {"count": c.copies, "length": 2 * c.copy_tokens + 1, "start": c.copy_tokens + 2}
    else:
        shape = {"count": c.windows, "length": c.length, "start": c.start}
    return run.map(steps.quality, [{**common, **shape, "method": method} for method in methods])


def nll(scored: dict[str, np.ndarray]) -> np.ndarray:
    """Mean negative log-likelihood per window, in nats per token."""
    return scored["nll"].mean(-1)


def errors(run: Run[Config], dictionaries: str, domain: str = HOME, model: str | None = None) -> np.ndarray:
    """Relative errors ``[sparsities, windows, keys and values]``; away from home of the named sparsity alone."""
    c = run.config
    return run.step(
        steps.errors,
        **place(run, model),
        **text(domain),
        count=c.error_windows,
        length=c.error_length,
        dictionaries=dictionaries,
        sparsities=list(c.sparsities) if domain == HOME else [c.sparsity],
    )
