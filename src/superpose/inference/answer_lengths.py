"""Laws of answer lengths: of two real models, log-normal, or from a user's own table."""

import csv
import math
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Float

from superpose.errors import InputError, choose
from superpose.theory.batching import checked_lengths

ANSWERING_MODELS = ("mixtral_8x7b", "gpt4_1106")
CHARACTERS_PER_TOKEN = 4  # of English text, roughly


def answer_lengths(model: str = "mixtral_8x7b") -> Float[np.ndarray, " requests"]:
    """Return the lengths, in tokens, of a real model's 1,319 answers to the test questions of GSM8K.

    Characters divided by four; see ``data/README.md`` for where they come from.

    Args:
        model: ``"mixtral_8x7b"`` or ``"gpt4_1106"``, whose answers are longer.

    Raises:
        InputError: another model.
    """
    choose("model", model, ANSWERING_MODELS)
    text = (resources.files("superpose.inference") / "data" / "gsm8k_answer_lengths.csv").read_text(encoding="utf-8")
    return np.array([float(row[model]) for row in csv.DictReader(text.splitlines())]) / CHARACTERS_PER_TOKEN


def lognormal_lengths(
    requests: int, generator: np.random.Generator, median: float = 68.0, sigma: float = 0.5, cap: float = math.inf
) -> Float[np.ndarray, " requests"]:
    """Draw whole lengths from 1 to ``cap`` from a log-normal law, which fits answers of real models well.

    Args:
        requests: how many.
        generator: of the draws.
        median: in tokens; 68 is Mixtral's on GSM8K.
        sigma: spread of the logarithm; 0.5 as there.
        cap: the most that a request may generate.

    Raises:
        InputError: a count below 1, or a median, sigma or cap that leaves no law.
    """
    if requests < 1:
        raise InputError(f"requests is {requests}; allowed: 1 or more")
    if not (median > 0 and sigma >= 0 and cap >= 1 and math.isfinite(median + sigma)):
        raise InputError(
            f"median, sigma and cap are {median}, {sigma} and {cap}; allowed: median > 0, sigma >= 0, cap >= 1"
        )
    return np.clip(np.round(generator.lognormal(math.log(median), sigma, requests)), 1, cap)


def load_lengths(path: str | Path, column: str | None = None) -> Float[np.ndarray, " requests"]:
    """Read lengths from a CSV file with a header.

    Args:
        path: of the file.
        column: the column with the lengths; may be left out where there is only one.

    Raises:
        InputError: no such file or column, no rows, or a cell that is no length.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"path is {str(path)!r}, which is no file; allowed: a CSV file with a header")
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.DictReader(opened)
        names = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = names
        if column is None and len(names) != 1:
            raise InputError(f"{file} has the columns {', '.join(names) or 'none'}; say which one holds the lengths")
        chosen = names[0] if column is None else column
        choose("column", chosen, names)
        values = [_number(row[chosen], file, line) for line, row in enumerate(reader, 2)]
    return checked_lengths(values, f"column {chosen!r} of {file}")


def _number(cell: str | None, file: Path, line: int) -> float:
    try:
        return float(cell or "")
    except ValueError:
        raise InputError(f"{file}, line {line}: {cell!r} is no number") from None
