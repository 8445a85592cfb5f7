"""The paper's four task families and the smaller ones of its code, by name."""

import csv
import functools
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import MappingProxyType

import numpy as np

from superpose.errors import InputError
from superpose.interpret.families import Task, TaskFamily
from superpose.interpret.family_files import SUFFIXES, load_family

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LANGUAGES = {"english": "en", "french": "fr", "spanish": "es", "german": "de", "italian": "it"}


def family(name: str | Path) -> TaskFamily:
    """Return a built-in family by its name, or read one from a CSV or YAML file.

    Raises:
        InputError: no built-in family has this name and it is no such file.
    """
    if str(name) in FAMILIES:
        return FAMILIES[str(name)]()
    if Path(name).suffix.lower() in SUFFIXES:
        return load_family(name)
    raise InputError(
        f"family is {str(name)!r}; allowed: {', '.join(FAMILIES)}, or a file ending in {', '.join(SUFFIXES)}"
    )


def _data(name: str) -> str:
    return (resources.files("superpose.interpret") / "data" / name).read_text(encoding="utf-8")


def _table(name: str) -> dict[str, dict[str, str]]:
    """Return a data file as column -> value in the first column -> cell."""
    rows = list(csv.DictReader(_data(name).splitlines()))
    key = next(iter(rows[0]))
    return {column: {row[key]: row[column] for row in rows} for column in rows[0] if column != key}


@functools.cache
def word() -> TaskFamily:
    """``valley->``: copy, change case, first and last letter; figure 2 d. First and last letter always differ."""
    words = [entry for entry in _data("words.txt").split() if entry[0] != entry[-1]]
    return TaskFamily.from_inputs(
        "word",
        words,
        [
            Task("copy", lambda w: w),
            Task("capitalise", str.capitalize),
            Task("upper", str.upper),
            Task("first", lambda w: w[0]),
            Task("last", lambda w: w[-1]),
            Task("first_upper", lambda w: w[0].upper()),
            Task("last_upper", lambda w: w[-1].upper()),
        ],
        unique_inputs=False,
        description="an English word: copy it, change its case, take its first or last letter",
    )


def _pair(rng: np.random.Generator) -> tuple[int, int]:
    a, b = rng.integers(10, 100, size=2).tolist()
    return a, b


@functools.cache
def ab() -> TaskFamily:
    """``14@52=``: copy an operand, add them, add a constant to one; figure 2 c. A, B uniform on 10..99."""
    constants = [
        Task(f"{name}_plus_{c}", lambda ab, i=i, c=c: str(ab[i] + c)) for i, name in enumerate("ab") for c in (1, 2, 5)
    ]
    return TaskFamily(
        name="ab",
        sample_input=_pair,
        format=lambda ab: f"{ab[0]}@{ab[1]}",
        tasks=(
            Task("copy_a", lambda ab: str(ab[0])),
            Task("copy_b", lambda ab: str(ab[1])),
            Task("add", lambda ab: str(ab[0] + ab[1])),
            *constants,
        ),
        separator="=",
        description="two two-digit numbers: copy one, add them, add a constant to one",
    )


@functools.cache
def country() -> TaskFamily:
    """``Peru->``: capital, continent, upper case, copy, number of letters, currency code; figure 2 b."""
    table = _table("countries.csv")
    return TaskFamily.from_inputs(
        "country",
        table["capital"],
        [
            Task("capital", table["capital"].__getitem__),
            Task("continent", table["continent"].__getitem__),
            Task("upper", str.upper),
            Task("copy", lambda name: name),
            Task("letters", lambda name: f"{sum(c.isalpha() for c in name)} letters"),
            Task("currency", table["currency"].__getitem__),
        ],
        description="a country: its capital, continent, currency, name in capitals, number of letters",
    )


@functools.cache
def add_translate() -> TaskFamily:
    """``14+52->``: the sum in digits or in words of a language; figure 2 a. A, B uniform on 10..99."""
    return TaskFamily(
        name="add-translate",
        sample_input=_pair,
        format=lambda ab: f"{ab[0]}+{ab[1]}",
        tasks=(
            Task("digits", lambda ab: str(sum(ab))),
            *(Task(name, lambda ab, code=code: _in_words(sum(ab), code)) for name, code in LANGUAGES.items()),
        ),
        description="the sum of two two-digit numbers, in digits or in the words of a language",
    )


@functools.cache
def _in_words(number: int, language: str) -> str:
    from num2words import num2words

    return str(num2words(number, lang=language))


def operands(length: int = 3) -> TaskFamily:
    """``14@52@73=``: copy the i-th of L operands, or their sum modulo 10 (`sum_mod_10`).

    Args:
        length: number of operands L, 2 or more; default 3.
    """
    if length < 2:
        raise InputError(f"length is {length}; the family needs 2 or more operands")
    return TaskFamily(
        name="operands",
        sample_input=lambda rng: tuple(rng.integers(10, 100, size=length).tolist()),
        format=lambda values: "@".join(map(str, values)),
        tasks=(
            *(Task(f"copy_{i + 1}", lambda values, i=i: str(values[i])) for i in range(length)),
            Task("sum_mod_10", lambda values: str(sum(values) % 10)),
        ),
        separator="=",
        description=f"{length} two-digit numbers: copy one of them, or their sum modulo 10",
    )


def triple() -> TaskFamily:
    """``14@52@73->``: A, A+B or A+B+C, zero-padded to three digits."""
    return TaskFamily(
        name="triple",
        sample_input=lambda rng: tuple(rng.integers(10, 100, size=3).tolist()),
        format=lambda values: "@".join(map(str, values)),
        tasks=tuple(
            Task(name, lambda values, n=n: f"{sum(values[:n]):03d}")
            for n, name in enumerate(("first", "first_two", "all_three"), start=1)
        ),
        description="three two-digit numbers: the sum of the first one, two or three, in three digits",
    )


def digit() -> TaskFamily:
    """``7->``: one digit, and simple functions of it."""
    return TaskFamily.from_inputs(
        "digit",
        range(10),
        [
            Task("self", str),
            Task("negate", lambda x: str(-x)),
            Task("plus_1", lambda x: str(x + 1)),
            Task("minus_1", lambda x: str(x - 1)),
            Task("double", lambda x: str(2 * x)),
            Task("square", lambda x: str(x * x)),
        ],
        unique_inputs=False,
        description="one digit: itself, negated, plus or minus one, doubled, squared",
    )


def linear(coefficients: tuple[tuple[int, int], ...] = ((1, 0), (2, 1), (3, 2), (5, 3))) -> TaskFamily:
    """``7->``: a*x + b for x uniform on 0..99, one task for each pair (a, b), named ``2x+1``.

    Args:
        coefficients: the pairs (a, b), pairwise different.
    """
    return TaskFamily.from_inputs(
        "linear",
        range(100),
        [Task(f"{a}x{b:+d}", lambda x, a=a, b=b: str(a * x + b)) for a, b in coefficients],
        unique_inputs=False,
        description="a number x: a*x + b for several a and b",
    )


def letters(length: int = 4) -> TaskFamily:
    """``k d w a->``: retrieve the i-th of several different letters.

    Args:
        length: number of letters, 2 to 26; default 4.
    """
    if not 2 <= length <= len(LETTERS):
        raise InputError(f"length is {length}; the family needs 2 to {len(LETTERS)} letters")
    return TaskFamily(
        name="letters",
        sample_input=lambda rng: tuple(LETTERS[i] for i in rng.permutation(len(LETTERS))[:length]),
        format=" ".join,
        tasks=tuple(Task(f"letter_{i + 1}", lambda row, i=i: row[i]) for i in range(length)),
        description=f"{length} different letters: retrieve one of them",
    )


def _word_table(name: str, description: str) -> TaskFamily:
    (task, table), *_ = _table(f"{name}s.csv").items()
    return TaskFamily.from_inputs(
        name,
        table,
        [
            Task(task, table.__getitem__),
            Task("copy", lambda w: w),
            Task("upper", str.upper),
            Task("capitalise", str.capitalize),
        ],
        description=description,
    )


@functools.cache
def plural() -> TaskFamily:
    """``leaf->``: the plural of an English noun, regular or not; copy; upper case; capitalise."""
    return _word_table("plural", "an English noun: its plural, a copy, upper case, capitalised")


@functools.cache
def antonym() -> TaskFamily:
    """``hot->``: the opposite of an English adjective; copy; upper case; capitalise."""
    return _word_table("antonym", "an English adjective: its opposite, a copy, upper case, capitalised")


FAMILIES: Mapping[str, Callable[[], TaskFamily]] = MappingProxyType(
    {
        "word": word,
        "ab": ab,
        "country": country,
        "add-translate": add_translate,
        "operands": operands,
        "triple": triple,
        "digit": digit,
        "linear": linear,
        "letters": letters,
        "plural": plural,
        "antonym": antonym,
    }
)
