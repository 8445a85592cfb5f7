"""Text that every machine with this package has: Python's documentation and sources, and licences."""

import hashlib
import importlib.metadata
import random
import sysconfig
from functools import cache, lru_cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from superpose.errors import InputError, choose
from superpose.studies.lexico.config import AWAY, FAR, HOME, TRAIN

COPY = "copy"
TRAIN_SHARE = 0.7  # of the documentation; the rest is held out
_CODE = ("argparse.py", "statistics.py", "smtplib.py")
_LICENCES = ("numpy", "torch", "transformers", "safetensors")
_WORDS = 500  # fewer word tokens than this: a vocabulary of bytes


@cache
def text(domain: str) -> str:
    """The text of a domain.

    Raises:
        InputError: an unknown domain, or none of its files is on this machine.
    """
    choose("domain", domain, (TRAIN, HOME, AWAY, FAR))
    if domain in (TRAIN, HOME):
        from pydoc_data.topics import topics

        # Topics quote one another at length: each paragraph counts once, or the held-out part would be trained on.
        paragraphs = list(dict.fromkeys("\n\n".join(topics[name] for name in sorted(topics)).split("\n\n")))
        edge = int(TRAIN_SHARE * len(paragraphs))
        return "\n\n".join(paragraphs[:edge] if domain == TRAIN else paragraphs[edge:])
    if domain == AWAY:
        library = Path(sysconfig.get_path("stdlib"))
        parts = [library / name for name in _CODE]
    else:
        parts = [Path(str(file.locate())) for name in _LICENCES for file in _licences(name)]
    found = [path.read_text(encoding="utf-8", errors="replace") for path in parts if path.is_file()]
    if not found:
        raise InputError(f"domain is {domain!r}, none of whose files is on this machine")
    return "\n\n".join(found)


def _licences(distribution: str) -> list[importlib.metadata.PackagePath]:
    files = importlib.metadata.files(distribution) or []
    named = [file for file in files if file.name.upper().startswith("LICENSE")]
    return sorted(named, key=str)[:1]


def digest(domain: str) -> str:
    """Names a domain's content, so that a step measured on other text is another step."""
    return "" if domain == COPY else hashlib.sha256(text(domain).encode()).hexdigest()[:16]


def windows(tokenizer: PreTrainedTokenizerBase, domain: str, count: int, length: int) -> Int[Tensor, "count length"]:
    """Windows of one length, spread evenly over a domain's text; of ``copy``: random words, a line break, the same.

    Raises:
        InputError: the text is too short for so many windows that do not overlap.
    """
    if domain == COPY:
        return _copies(tokenizer, count, length)
    ids = _ids(tokenizer, domain)
    if count * length > len(ids):
        raise InputError(f"windows is {count} of {length} tokens; the domain {domain!r} has {len(ids)} tokens in all")
    starts = [round(i * (len(ids) - length) / max(1, count - 1)) for i in range(count)]
    return torch.tensor([ids[at : at + length] for at in starts])


@lru_cache(maxsize=8)  # steps in one process share a tokenizer and read the same few texts
def _ids(tokenizer: PreTrainedTokenizerBase, domain: str) -> list[int]:
    return tokenizer(text(domain), add_special_tokens=False, verbose=False)["input_ids"]


def _copies(tokenizer: PreTrainedTokenizerBase, count: int, length: int) -> Int[Tensor, "count length"]:
    special = set(tokenizer.all_special_ids)
    pieces = {i: str(tokenizer.decode([i])) for i in range(len(tokenizer)) if i not in special}
    words = [i for i, piece in pieces.items() if piece[:1] == " " and len(piece) > 3 and piece[1:].isalpha()]
    words = [i for i in words if pieces[i].islower() and pieces[i].isascii()]
    choices = words if len(words) >= _WORDS else sorted(pieces)
    line_break = tokenizer("\n", add_special_tokens=False)["input_ids"]
    half = (length - len(line_break)) // 2
    rng = random.Random(0)
    rows = []
    for _ in range(count):
        drawn = rng.choices(choices, k=half)
        rows.append([*drawn, *line_break, *drawn])
    return torch.tensor(rows)
