"""Real text: a language model's own continuations, and chains of letters. Pure functions of plain data."""

import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.experiment import current, step, track
from superpose.models import load
from superpose.tasks import draw_next, trajectory_counts
from superpose.theory import bigram_transitions, prompt_counts, self_dominant

PROMPTS = (
    "The sea was calm that morning, and",
    "In the middle of the old town there is",
    "Scientists have recently found that",
    "My grandmother used to tell me",
    "To bake a good loaf of bread, you",
    "The history of the railway begins",
    "When the door opened, she saw",
    "A healthy diet should include",
    "The minister said on Tuesday that",
    "Once upon a time, a fox",
    "The best way to learn a language is",
    "After the storm the village",
    "The new law requires that every",
    "He looked at the map and",
    "Music helps people to",
    "The planet Mars has",
)
LETTERS = "abcdefghijklmnopqrstuvwxyz ,."
SCORED_EVERY = 4  # steps between two of those whose probabilities are compared with counts
FEWEST = 8  # tokens of a context below which no correlation is taken
NO_SPREAD = 1e-9  # of log-counts that are all equal
START = 64  # characters of text that a chain of letters starts from


@step(version="2", label="continuations")
def continuations(
    model: str, dtype: str, prompts: int, new_tokens: int, sampled: bool, seed: int, fingerprint: str = ""
) -> dict[str, np.ndarray]:
    """Let a language model continue short prompts; the end of the text is excluded.

    Args:
        model, dtype: as :func:`superpose.models.load` takes them.
        prompts: how many of PROMPTS.
        new_tokens: tokens after each.
        sampled: draw at temperature 1 from the whole vocabulary, else take the likeliest token.
        seed: of the draws.
        fingerprint: ties a local model to its content.

    Returns:
        ``ids`` of the new tokens, ``[prompts, new]``. And for every fourth step, over the different tokens of the
        context so far, ``[prompts, scored]``, NaN where all counts are equal: the ``correlation`` of their
        log-probability with the logarithm of their count; and the correlation (``raised``) and the ``slope`` of what
        the context adds to their log-probability after the last token alone. A context-conditioned Markov chain has
        1 in the last two.
    """
    loaded = load(model, dtype, current().device)
    tokenizer = loaded.tokenizer
    encoded = [tokenizer(text, add_special_tokens=True)["input_ids"] for text in PROMPTS[:prompts]]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    longest = max(map(len, encoded))
    ids = torch.tensor([[pad] * (longest - len(row)) + list(row) for row in encoded])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in encoded])
    choice = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        written = loaded.model.generate(  # pyright: ignore[reportCallIssue]
            input_ids=ids.to(loaded.model.device),
            attention_mask=mask.to(loaded.model.device),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            pad_token_id=pad,
            **choice,
        ).cpu()
    new = written[:, longest:]
    effects = [
        _count_effect(loaded.model, torch.cat([torch.tensor(row), tail]), len(row))
        for row, tail in zip(encoded, track(new, "scoring"), strict=True)
    ]
    found = np.array(effects)
    return {"ids": new.numpy(), "correlation": found[:, 0], "raised": found[:, 1], "slope": found[:, 2]}


def _count_effect(model: torch.nn.Module, ids: Tensor, prompt: int) -> tuple[list[float], list[float], list[float]]:
    places = list(range(prompt - 1, len(ids) - 1, SCORED_EVERY))
    device = next(model.parameters()).device
    with torch.inference_mode():
        whole = model(input_ids=ids[None].to(device), use_cache=False).logits[0, places].float().log_softmax(-1).cpu()
        queries, which = torch.unique(ids[places], return_inverse=True)
        alone = model(input_ids=queries[:, None].to(device), use_cache=False).logits[:, 0].float().log_softmax(-1).cpu()
    correlations, raised, slopes = [], [], []
    for row, place in enumerate(places):
        tokens, counts = torch.unique(ids[: place + 1], return_counts=True)
        x = counts.double().log()
        if place + 1 < FEWEST or float(x.std(correction=0)) < NO_SPREAD:
            x = x * torch.nan
        y = whole[row, tokens].double()
        gain = y - alone[which[row], tokens].double()
        correlations.append(_correlation(x, y))
        raised.append(_correlation(x, gain))
        slopes.append(float((x - x.mean()) @ gain / (x - x.mean()).square().sum()))
    return correlations, raised, slopes


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / (x.norm() * y.norm()))


@cache
def letters() -> Tensor:
    """Python's own documentation as lower-case letters, spaces, commas and full stops."""
    from pydoc_data.topics import topics

    text = " ".join(" ".join(topics[name] for name in sorted(topics)).lower().split())
    kept = "".join(ch if ch in LETTERS else " " for ch in text)
    return torch.tensor([LETTERS.index(ch) for ch in " ".join(kept.split())])


def digest() -> str:
    """Names the text, so that a step measured on other text is another step."""
    return hashlib.sha256(letters().numpy().tobytes()).hexdigest()[:16]


@step(version="1", label="chains of letters")
def letter_chains(trajectories: int, at: Sequence[int], seed: int, text: str) -> dict[str, Any]:
    """Let the bigram chain of a text write, plain and multiplied by counts, from pieces of the text.

    Returns:
        By kind the effective number of characters in prompt and continuation, ``[trajectories, at]``; and how many
        characters dominate their own row.
    """
    ids, g = letters(), torch.Generator().manual_seed(seed)
    chain = bigram_transitions(ids, len(LETTERS))
    starts = torch.randint(len(ids) - START, (trajectories,), generator=g)
    prompts = torch.stack([ids[start : start + START] for start in starts.tolist()])
    counted = trajectory_counts(chain, prompts, at, g)
    plain = _plain_counts(chain, prompts, at, g)
    return {
        "counted": _effective(counted),
        "plain": _effective(plain),
        "dominant": int(self_dominant(chain).sum()),
    }


def _plain_counts(chain: Tensor, prompts: Tensor, at: Sequence[int], g: torch.Generator) -> Tensor:
    counts, last = prompt_counts(prompts, len(chain))
    even, kept, places = torch.ones(len(prompts), len(chain)), [], set(at)
    for step_ in range(1, max(at) + 1):
        last = draw_next(chain, even, last, g)
        counts.scatter_add_(1, last[:, None], torch.ones_like(last[:, None]))
        if step_ in places:
            kept.append(counts.double())
    return torch.stack(kept, 1)


def _effective(counts: Tensor) -> np.ndarray:
    shares = counts / counts.sum(-1, keepdim=True)
    return torch.special.entr(shares).sum(-1).exp().numpy()
