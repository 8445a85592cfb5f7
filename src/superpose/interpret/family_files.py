"""Task families that users write themselves, as CSV or YAML files."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from superpose.errors import InputError
from superpose.interpret.families import TaskFamily

SUFFIXES = (".csv", ".yaml", ".yml")
YAML_KEYS = ("name", "separator", "description", "rows")


def load_family(path: str | Path) -> TaskFamily:
    """Read a family from a table: the first column is the input, every further column one task's answers.

    A CSV file has a header line with the column names, is comma-separated and UTF-8; the family is named after the
    file. A YAML file is a list of rows, each a mapping from column names to texts, or a mapping with the key ``rows``
    for that list and optionally ``name``, ``separator`` (default ``->``) and ``description``. Values are taken as
    written (``no`` stays the text "no"), without the spaces around them. Inputs are unique within a prompt.

    Raises:
        InputError: not a readable file of these kinds, not UTF-8, empty, a row or cell missing, fewer than two tasks
            or two rows, or an input twice.
    """
    source = Path(path)
    if source.suffix.lower() not in SUFFIXES:
        raise InputError(f"family file is {str(source)!r}; allowed: files ending in {', '.join(SUFFIXES)}")
    text = _read(source)
    if not text.strip():
        raise InputError(f"family file {str(source)!r} is empty; it needs a header and at least two rows")
    options: dict[str, str] = {}
    if source.suffix.lower() == ".csv":
        columns, rows = _csv_rows(source, text)
    else:
        columns, rows, options = _yaml_rows(source, text)
    return _build(source, columns, rows, options)


def _read(source: Path) -> str:
    try:
        return source.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"family file {str(source)!r} is not UTF-8 (byte {error.start}: {error.object[error.start]:#04x}); "
            "save it with the encoding utf-8"
        ) from error
    except OSError as error:
        raise InputError(f"family file {str(source)!r} cannot be read: {error.strerror or error}") from error


Rows = list[tuple[str, list[str]]]


def _csv_rows(source: Path, text: str) -> tuple[list[str], Rows]:
    if "\0" in text:
        raise InputError(f"family file {str(source)!r} is not a CSV file: it contains null bytes")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: Rows = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append((f"line {reader.line_num}", [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise InputError(f"family file {str(source)!r} is not a CSV file: line {reader.line_num}: {error}") from error
    columns = lines[0][1] if lines else []
    for where, cells in lines[1:]:
        if len(cells) > len(columns):
            raise InputError(
                f"{where} of {str(source)!r} has {len(cells)} cells for {len(columns)} columns; "
                "put cells that contain a comma in double quotes"
            )
    return columns, [(where, cells + [""] * (len(columns) - len(cells))) for where, cells in lines[1:]]


def _yaml_rows(source: Path, text: str) -> tuple[list[str], Rows, dict[str, str]]:
    try:
        # The base loader keeps every scalar as the text it is: no, 1.10 and 2024-01-01 are answers, not types.
        document: Any = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise InputError(f"family file {str(source)!r} is not a YAML file: {' '.join(str(error).split())}") from error
    options: dict[str, str] = {}
    if isinstance(document, dict):
        unknown = sorted(set(document) - set(YAML_KEYS))
        if unknown or "rows" not in document:
            found = f"the key {unknown[0]!r}" if unknown else "no key 'rows'"
            raise InputError(f"family file {str(source)!r} has {found}; allowed keys: {', '.join(YAML_KEYS)}")
        options = {key: value for key, value in document.items() if key != "rows"}
        for key, value in options.items():
            if not isinstance(value, str):
                raise InputError(f"{key} in {str(source)!r} must be a text")
        document = document["rows"]
    if not isinstance(document, list) or not all(isinstance(row, dict) for row in document):
        raise InputError(f"rows of {str(source)!r} must be a list of mappings from column names to texts")
    columns = list(dict.fromkeys(column for row in document for column in row))
    rows: Rows = []
    for number, row in enumerate(document, start=1):
        for column, value in row.items():
            if not isinstance(value, str):
                raise InputError(f"row {number} of {str(source)!r} has a list or mapping in {column!r}; write a text")
        rows.append((f"row {number}", [row.get(column, "").strip() for column in columns]))
    return columns, rows, options


def _build(source: Path, columns: list[str], rows: Rows, options: Mapping[str, str]) -> TaskFamily:
    if len(rows) < 2:
        raise InputError(
            f"family file {str(source)!r} has {len(rows)} rows; it needs a query and a demonstration, so 2"
        )
    _check_columns(source, columns)
    first_seen: dict[str, str] = {}
    for where, cells in rows:
        for column, cell in zip(columns, cells, strict=True):
            if not cell:
                raise InputError(f"{where} of {str(source)!r} has no value in column {column!r}; fill in every cell")
            if "\n" in cell or "\r" in cell:
                raise InputError(
                    f"{where} of {str(source)!r} has a line break in column {column!r}; cells are one line"
                )
        if cells[0] in first_seen:
            raise InputError(
                f"{source.name} has the input {cells[0]!r} twice ({first_seen[cells[0]]} and {where}); "
                "inputs must be unique"
            )
        first_seen[cells[0]] = where
    return TaskFamily.from_table(
        options.get("name", source.stem),
        {task: {cells[0]: cells[i] for _, cells in rows} for i, task in enumerate(columns[1:], start=1)},
        separator=options.get("separator", "->"),
        description=options.get("description", f"read from {source.name}"),
    )


def _check_columns(source: Path, columns: list[str]) -> None:
    if any(not column for column in columns):
        raise InputError(f"family file {str(source)!r} has a column without a name; name every column")
    _refuse_twice(source, columns)
    if len(columns) < 3:
        raise InputError(
            f"family file {str(source)!r} has the columns {', '.join(columns)}; a family needs the input column and at "
            "least two task columns (separated by commas in a CSV file)"
        )


def _refuse_twice(source: Path, columns: Iterable[str]) -> None:
    seen: set[str] = set()
    for column in columns:
        if column in seen:
            raise InputError(f"family file {str(source)!r} has two columns named {column!r}; names must be unique")
        seen.add(column)
