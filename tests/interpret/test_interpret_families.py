from pathlib import Path

import numpy as np
import pytest

from superpose.errors import InputError
from superpose.interpret import FAMILIES, MixturePrompt, Task, TaskFamily, family, load_family

CSV = "word,colour,size\nsky,blue,big\nsea, green ,wide\n\ngrass,green,small\n"
YAML = """
name: things
separator: "="
rows:
  - {word: sky, colour: blue, answer: no}
  - {word: sea, colour: green, answer: 1.10}
"""


def write(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", FAMILIES)
def test_builtin_family_contract(name: str):
    built = family(name)
    assert built.name == name
    assert built.description
    for seed in range(50):
        rng = np.random.default_rng(seed)
        value = built.sample_input(rng)
        hash(value)
        assert value == built.sample_input(np.random.default_rng(seed))
        for text in (built.format(value), *built.answers(value)):
            assert text == text.strip() != ""
            assert "\n" not in text
    prompt = MixturePrompt.build(built, built.task_names[:2], [0.5, 0.5], 8, np.random.default_rng(0))
    assert len(set(prompt.answers)) == 2


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "word",
            "valley",
            {"copy": "valley", "capitalise": "Valley", "upper": "VALLEY", "first": "v", "last": "y", "last_upper": "Y"},
        ),
        ("ab", (14, 52), {"copy_a": "14", "copy_b": "52", "add": "66", "a_plus_1": "15", "b_plus_5": "57"}),
        (
            "country",
            "Costa Rica",
            {
                "capital": "San Jose",
                "continent": "North America",
                "upper": "COSTA RICA",
                "letters": "9 letters",
                "currency": "CRC",
            },
        ),
        (
            "add-translate",
            (90, 8),
            {"digits": "98", "english": "ninety-eight", "french": "quatre-vingt-dix-huit", "spanish": "noventa y ocho"},
        ),
        ("add-translate", (20, 1), {"german": "einundzwanzig", "italian": "ventuno"}),
        ("operands", (14, 52, 73), {"copy_1": "14", "copy_3": "73", "sum_mod_10": "9"}),
        ("triple", (14, 52, 73), {"first": "014", "first_two": "066", "all_three": "139"}),
        ("digit", 7, {"self": "7", "negate": "-7", "plus_1": "8", "minus_1": "6", "double": "14", "square": "49"}),
        ("linear", 10, {"1x+0": "10", "2x+1": "21"}),
        ("letters", ("k", "d", "w", "a"), {"letter_1": "k", "letter_4": "a"}),
        ("plural", "knife", {"plural": "knives", "copy": "knife"}),
        ("antonym", "hot", {"antonym": "cold", "upper": "HOT"}),
    ],
)
def test_builtin_answers(name: str, value: object, expected: dict[str, str]):
    built = family(name)
    assert dict(zip(expected, built.answers(value, expected), strict=True)) == expected


def test_queries_end_in_the_separator():
    assert family("ab").query((14, 52)) == "14@52="
    assert family("add-translate").query((14, 52)) == "14+52->"
    assert family("letters").query(("k", "d", "w", "a"), leading_newline=True) == "\nk d w a->"


def test_country_table_is_sane():
    inputs = family("country").inputs
    assert inputs is not None
    assert len(set(inputs)) == len(inputs) >= 168
    continents = {family("country").answers(name, ["continent"])[0] for name in inputs}
    assert continents == {"Africa", "Asia", "Europe", "North America", "Oceania", "South America"}
    codes = [family("country").answers(name, ["currency"])[0] for name in inputs]
    assert all(len(code) == 3 and code.isupper() and code.isascii() for code in codes)


def test_words_differ_in_first_and_last_letter():
    inputs = family("word").inputs
    assert inputs is not None
    assert len(inputs) >= 500
    assert all(word[0] != word[-1] and word.isascii() and word.islower() and len(word) > 1 for word in inputs)


def test_unknown_names_list_what_there_is():
    with pytest.raises(InputError, match=r"family is 'wrd'; allowed: word, ab.*\.csv"):
        family("wrd")
    with pytest.raises(InputError, match=r"task is 'cap'; family 'word' has: copy, capitalise"):
        family("word").task("cap")
    with pytest.raises(InputError, match="'copy' twice"):
        family("word").select(["copy", "upper", "copy"])
    with pytest.raises(InputError, match="tasks is empty"):
        family("word").select([])


@pytest.mark.parametrize("separator", ["", "-> ", "\n", "->\n"])
def test_separator_must_be_glued(separator: str):
    with pytest.raises(InputError, match="separator"):
        TaskFamily("f", lambda rng: 0, str, (Task("a", str),), separator=separator)


def test_family_refuses_bad_tasks():
    with pytest.raises(InputError, match="no tasks"):
        TaskFamily("f", lambda rng: 0, str, ())
    with pytest.raises(InputError, match="'a' twice"):
        TaskFamily("f", lambda rng: 0, str, (Task("a", str), Task("a", repr)))
    with pytest.raises(InputError, match="no inputs"):
        TaskFamily.from_inputs("f", [], [Task("a", str)])
    with pytest.raises(InputError, match="differ in input 2"):
        TaskFamily.from_table("f", {"a": {1: "x"}, "b": {1: "y", 2: "z"}})


def test_csv_family(tmp_path: Path):
    built = load_family(write(tmp_path, "things.csv", "\ufeff" + CSV))
    assert (built.name, built.separator, built.unique_inputs) == ("things", "->", True)
    assert built.task_names == ("colour", "size")
    assert built.inputs == ("sky", "sea", "grass")
    assert built.answers("sea") == ("green", "wide")
    assert family(tmp_path / "things.csv").answers("sky") == ("blue", "big")


def test_csv_cells_may_contain_commas_in_quotes(tmp_path: Path):
    built = load_family(write(tmp_path, "q.csv", 'in,a,b\nx,"1, 2",3\ny,4,5\n'))
    assert built.answers("x") == ("1, 2", "3")


def test_yaml_family_keeps_values_as_written(tmp_path: Path):
    built = load_family(write(tmp_path, "any.yaml", YAML))
    assert (built.name, built.separator) == ("things", "=")
    assert built.answers("sky") == ("blue", "no")
    assert built.answers("sea") == ("green", "1.10")
    plain = load_family(write(tmp_path, "plain.yml", "[{i: x, a: '1', b: '2'}, {i: y, a: '3', b: '4'}]"))
    assert (plain.name, plain.answers("y")) == ("plain", ("3", "4"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("f.csv", "w,a,b\nx,1,\ny,2,3\n", r"line 2 of .* no value in column 'b'"),
        ("f.csv", "w,a,b\nx,1\ny,2,3\n", r"line 2 of .* no value in column 'b'"),
        ("f.csv", "w,a,b\nx,1,2\n,2,3\n", r"line 3 of .* no value in column 'w'"),
        ("f.csv", "w,a\nx,1\ny,2\n", "at least two task columns"),
        ("f.csv", "w;a;b\nx;1;2\ny;2;3\n", "at least two task columns"),
        ("f.csv", "w,a,b\nx,1,2\ny,2,3\nx,3,4\n", r"input 'x' twice \(line 2 and line 4\)"),
        ("f.csv", "w,a,b\nx,1,2\ny,2,3,4\n", "line 3 of .* 4 cells for 3 columns"),
        ("f.csv", "w,a,a\nx,1,2\ny,2,3\n", "two columns named 'a'"),
        ("f.csv", "w,a,\nx,1,2\ny,2,3\n", "column without a name"),
        ("f.csv", 'w,a,b\nx,"1\n2",3\ny,2,3\n', "line break in column 'a'"),
        ("f.csv", 'w,a,b\nx,"1,2\n', "not a CSV file"),
        ("f.csv", b"w,a,b\nx,\x00,2\n", "not a CSV file"),
        ("f.csv", "w,a,b\nx,caf\u00e9,2\n".encode("latin-1"), "not UTF-8.*encoding utf-8"),
        ("f.csv", "w,a,b\n", "has 0 rows"),
        ("f.csv", "w,a,b\nx,1,2\n", "has 1 rows"),
        ("f.csv", "", "is empty"),
        ("f.csv", " \n\n", "is empty"),
        ("f.yaml", "", "is empty"),
        ("f.yaml", "a: [1", "not a YAML file"),
        ("f.yaml", "just text", "list of mappings"),
        ("f.yaml", "rows: []", "has 0 rows"),
        ("f.yaml", "names: x\nrows: []", "the key 'names'; allowed keys: name"),
        ("f.yaml", "name: x", "no key 'rows'"),
        ("f.yaml", "[{i: x, a: '1', b: ''}, {i: y, a: '2', b: '3'}]", "row 1 of .* no value in column 'b'"),
        ("f.yaml", "[{i: x, a: '1', b: '2'}, {i: y, a: '2'}]", "row 2 of .* no value in column 'b'"),
        ("f.yaml", "[{i: x, a: [1], b: '2'}, {i: y, a: '2', b: '3'}]", "row 1 of .* list or mapping in 'a'"),
        ("f.yaml", "separator: '-> '\nrows: [{i: x, a: '1', b: '2'}, {i: y, a: '2', b: '3'}]", "separator"),
        ("f.txt", "w,a,b\n", r"allowed: files ending in \.csv"),
    ],
)
def test_bad_family_file(tmp_path: Path, name: str, content: str | bytes, message: str):
    with pytest.raises(InputError, match=message):
        load_family(write(tmp_path, name, content))


def test_unreadable_family_file(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_family(tmp_path / "absent.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        load_family(tmp_path / "folder.csv")


def test_file_family_needs_an_input_per_line(tmp_path: Path):
    built = load_family(write(tmp_path, "things.csv", CSV))
    rng = np.random.default_rng(0)
    assert MixturePrompt.build(built, built.task_names, [0.5, 0.5], 2, rng).text.count("\n") == 2
    with pytest.raises(InputError, match="'things' has 3 inputs; 3 demonstrations and a query need 4"):
        MixturePrompt.build(built, built.task_names, [0.5, 0.5], 3, rng)
