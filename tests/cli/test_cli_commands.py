"""The command line as a user meets it: exit codes, one clear sentence, JSON on stdout and nothing else there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import tiny_llama_dir

SMOKE = ["run", "task-superposition", "--claims", "TS3", "--scale", "smoke"]


@pytest.fixture
def superpose(tmp_path: Path):
    """Run the command line in a folder of its own, with a step cache of its own."""

    def call(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SUPERPOSE_CACHE": str(tmp_path / "cache"), "COLUMNS": "200", **(env or {})}
        environment.pop("SUPERPOSE_STORE", None) if not env else None
        return subprocess.run(
            [sys.executable, "-c", "from superpose.cli import main; main()", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=200,
            check=False,
        )

    return call


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['superpose', '--help']\n"
        "from superpose.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'scipy', 'pyarrow', 'duckdb', 'ray'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Measure a study" in done.stdout


def test_list_json_has_the_promised_fields(superpose):
    done = superpose("list", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    row = next(row for row in rows if row["study"] == "task-superposition")
    assert {"study", "title", "room", "claims", "card"} <= set(row)
    assert "TS1" in row["claims"]


def test_show_prints_claims_and_json(superpose):
    assert "TS3" in superpose("show", "task-superposition").stdout
    document = json.loads(superpose("show", "task-superposition", "--json").stdout)
    assert {"smoke", "laptop", "gpu"} == set(document["presets"])


def test_run_claims_query_and_report_work_together(superpose, tmp_path):
    done = superpose(*SMOKE, "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["study"] == "task-superposition"

    rows = json.loads(superpose("claims", "--json").stdout)
    row = next(row for row in rows if row["claim"] == "TS3")
    wanted = {"study", "claim", "sentence", "paper_figure", "role", "criterion", "measurements", "scale", "verdict"}
    assert wanted | {"explanation", "run"} <= set(row)
    assert row["verdict"] == "holds"
    assert {"name", "value", "low", "high", "n", "unit", "over"} <= set(row["measurements"][0])
    assert row["run"] == record["id"]

    answer = superpose("query", "SELECT count(*) AS runs FROM runs", "--json")
    assert json.loads(answer.stdout) == [{"runs": 1}]
    refused = superpose("query", "COPY (SELECT 1) TO 'leak.csv'")
    assert refused.returncode == 2
    assert not (tmp_path / "leak.csv").exists()

    site = superpose("report", "--out", "site")
    assert site.returncode == 0, site.stderr
    assert Path(site.stdout.strip()).exists()


def test_a_second_run_reads_every_step_from_the_cache(superpose):
    superpose(*SMOKE)
    again = json.loads(superpose(*SMOKE, "--json").stdout)[0]
    assert again["steps_run"] == 0
    assert again["steps_cached"] > 0
    fresh = json.loads(superpose(*SMOKE, "--fresh", "--json").stdout)[0]
    assert fresh["steps_run"] == again["steps_cached"]


def test_set_leaves_the_preset_and_is_not_judged(superpose):
    (record,) = json.loads(superpose(*SMOKE, "--set", "demos=4", "--json").stdout)
    claim = next(c for c in record["claims"] if c["id"] == "TS3")
    assert claim["judgement"]["verdict"] == "not judged"
    assert record["changed"] == ["demos"]


def test_an_empty_store_prints_an_empty_table(superpose):
    done = superpose("claims", "--store", "nothing-here")
    assert done.returncode == 0
    assert json.loads(superpose("claims", "--store", "nothing-here", "--json").stdout) == []


def test_a_truncated_run_is_named_and_skipped(superpose, tmp_path):
    superpose(*SMOKE)
    (run,) = (tmp_path / "superpose-runs").glob("task-superposition--*")
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text[: len(text) // 2])
    done = superpose("claims", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout) == []
    assert run.name in done.stderr


BAD = {
    "study": (["run", "nonsense"], "study is 'nonsense'"),
    "claim": (["run", "task-superposition", "--claims", "TS99"], "'TS99'"),
    "scale": (["run", "task-superposition", "--scale", "huge"], "--scale is 'huge'"),
    "field": ([*SMOKE, "--set", "nonsense=1"], "nonsense"),
    "type": ([*SMOKE, "--set", "prompts=many"], "prompts"),
    "range": ([*SMOKE, "--set", "prompts=-3"], "prompts"),
    "no value": ([*SMOKE, "--set", "prompts"], "FIELD=VALUE"),
    "seeds": ([*SMOKE, "--seeds", "0"], "seeds"),
    "jobs": ([*SMOKE, "--jobs", "0"], "--jobs is 0"),
    "engine": ([*SMOKE, "--engine", "dask"], "--engine is 'dask'"),
    "device": ([*SMOKE, "--device", "tpu"], "--device is 'tpu'"),
    "command": (["nonsense"], "nonsense"),
    "show": (["show", "nonsense"], "study is 'nonsense'"),
    "claims of": (["claims", "nonsense"], "study is 'nonsense'"),
    "sql": (["query", "SELEKT 1"], "SELEKT"),
    "sql file": (["query", "SELECT * FROM read_text('/etc/hostname')"], "error"),
    "model": (["models", "get", "nonsense"], "nonsense"),
    "licence": (["models", "get", "gemma3-270m-q4_k_m"], "--accept-license gemma"),
    "measure model": (["superposition", "measure", "no/such/folder/here"], "no/such/folder/here"),
    "measure family": (["superposition", "measure", "smollm2-135m", "--family", "nonsense"], "nonsense"),
    "measure task": (["superposition", "measure", "smollm2-135m", "--tasks", "copy,nonsense"], "nonsense"),
    "measure one task": (["superposition", "measure", "smollm2-135m", "--tasks", "copy"], "copy"),
    "measure sweep": (["superposition", "measure", "smollm2-135m", "--sweep", "0:2:0.5"], "0:2:0.5"),
    "measure proportions": (["superposition", "measure", "smollm2-135m", "--proportions", "0.9,0.9"], "1.8"),
    "measure lengths": (
        ["superposition", "measure", "smollm2-135m", "--proportions", "0.2,0.3,0.5"],
        "(0.2, 0.3, 0.5)",
    ),
    "only commas": (["run", "task-superposition", "--claims", ","], "--claims is ','"),
    "measure prompts": (["superposition", "measure", "MODEL", "--prompts", "0"], "--prompts is 0; allowed: 1 or more"),
    "measure demos": (["superposition", "measure", "MODEL", "--demos", "0"], "--demos is 0; allowed: 1 or more"),
    "measure dtype": (
        ["superposition", "measure", "MODEL", "--dtype", "int8"],
        "--dtype is 'int8'; allowed: float32, bfloat16, float16",
    ),
}


@pytest.mark.parametrize(("arguments", "named"), BAD.values(), ids=BAD)
def test_bad_usage_is_one_sentence_exit_2_and_nothing_written(superpose, tmp_path, arguments, named):
    if "MODEL" in arguments:
        arguments = [str(tiny_llama_dir(tmp_path / "model")) if word == "MODEL" else word for word in arguments]
    done = superpose(*arguments)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert named in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "superpose-runs").exists()


BAD_FILES = {
    "one.csv": (b"input,only\na,b\nc,d\n", "only"),
    "hole.csv": (b"input,x,y\na,b,\nc,d,e\n", "y"),
    "twice.csv": (b"input,x,y\na,b,c\na,d,e\n", "'a'"),
    "latin.csv": ("input,x,y\ncaf\u00e9,b,c\n".encode("latin-1"), "utf-8"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_family_file_is_refused_by_name(superpose, tmp_path, name):
    content, named = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    done = superpose("superposition", "measure", "smollm2-135m", "--family", name)
    assert done.returncode == 2, done.stderr
    assert name in done.stderr
    assert named in done.stderr.lower()
    assert not (tmp_path / "superpose-runs").exists()


def test_a_family_file_is_measured_on_a_model_folder(superpose, tmp_path):
    tiny_llama_dir(tmp_path / "model")
    rows = [f"{word},{word.upper()},{word[::-1]}" for word in ("ab", "cd", "ef", "gh", "ij")]
    (tmp_path / "mine.csv").write_text("\n".join(["input,loud,backwards", *rows]) + "\n")
    arguments = ["superposition", "measure", "model", "--family", "mine.csv", "--demos", "3", "--prompts", "2"]
    done = superpose(*arguments, "--proportions", "0.5,0.5", "--search-budget", "20")
    assert done.returncode == 0, done.stderr
    assert "loud" in done.stdout
    assert "backwards" in done.stdout
    assert "0.5,0.5" in done.stdout
    (run,) = (tmp_path / "superpose-runs").iterdir()
    assert run.name.startswith("superposition-measure--")


def test_task_names_are_printed_as_they_are_given(superpose, tmp_path):
    tiny_llama_dir(tmp_path / "model")
    rows = [f"{word},{word.upper()},{word[::-1]}" for word in ("ab", "cd", "ef", "gh", "ij")]
    (tmp_path / "mine.csv").write_text("\n".join(["input,[/b],größer", *rows]) + "\n")
    arguments = ["superposition", "measure", "model", "--family", "mine.csv", "--demos", "3", "--prompts", "2"]
    done = superpose(*arguments, "--proportions", "0.5,0.5", "--search-budget", "1")
    assert done.returncode == 0, done.stderr
    headers = next(line for line in done.stdout.splitlines() if line.startswith("mixture")).split()
    assert headers[:4] == ["mixture", "[/b]", "größer", "other"]
    assert "settled" in headers  # one expansion settles nothing
    assert "/2" in done.stdout


def test_a_failed_download_is_one_sentence_and_exit_1(superpose, tmp_path):
    for arguments in (["models", "get", "smollm2-135m"], ["superposition", "measure", "smollm2-135m"]):
        done = superpose(*arguments, env={"PIP_NO_INDEX": "1"})
        assert done.returncode == 1, done.stderr
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("failed: pip could not download")
        assert "Traceback" not in done.stderr


def test_cells_are_data_and_whole_lines_in_a_pipe(superpose):
    long = "x" * 300
    done = superpose("query", f"SELECT '[/x]' AS \"[/b]\", '{long}' AS word, NULL AS nothing", env={"COLUMNS": "40"})
    assert done.returncode == 0, done.stderr
    header, row = done.stdout.splitlines()
    assert header.split() == ["[/b]", "word", "nothing"]
    assert row.split() == ["[/x]", long]


def test_models_list_shows_whole_names_in_a_pipe(superpose):
    out = superpose("models", "list", env={"COLUMNS": "30"}).stdout
    assert "smollm2-135m-instruct-q4_1" in out
    assert len(out.splitlines()) == 1 + len(json.loads(superpose("models", "list", "--json").stdout))


@pytest.mark.parametrize("arguments", [["show", "task-superposition", "--json"], ["query", "FROM range(100000)"]])
def test_a_closed_pipe_ends_quietly(tmp_path, arguments):
    process = subprocess.Popen(
        [sys.executable, "-c", "from superpose.cli import main; main()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "SUPERPOSE_STORE": "none"},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=100) in (0, 141)
    assert err == b""


def test_a_prompt_longer_than_the_context_is_refused_and_nothing_is_written(superpose, tmp_path):
    tiny_llama_dir(tmp_path / "model")
    done = superpose("superposition", "measure", "model", "--demos", "60", "--prompts", "1", "--sweep", "0:0:1")
    assert done.returncode == 2, done.stderr
    assert "256" in done.stderr
    assert not (tmp_path / "superpose-runs").exists()


def test_an_unwritable_store_is_refused_before_work(superpose, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = superpose(*SMOKE, "--store", "file/store")
    assert done.returncode == 2
    assert "file/store" in done.stderr


def test_a_missing_extra_names_the_pip_command(superpose, tmp_path):
    superpose(*SMOKE)
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "duckdb.py").write_text("raise ModuleNotFoundError('gone', name='duckdb')")
    done = superpose("query", "SELECT 1", env={"PYTHONPATH": str(shadow)})
    assert done.returncode == 2
    assert "pip install 'superpose[report]'" in done.stderr


def test_cache_size_and_clear(superpose, tmp_path):
    superpose(*SMOKE)
    kept = tmp_path / "cache" / "dictionaries" / "llama-16-abc"
    kept.mkdir(parents=True)
    (kept / "dictionaries.safetensors").write_bytes(b"x" * 2**20)
    size = superpose("cache", "size").stdout
    assert not size.startswith("0 steps")
    assert "1 dictionaries, 1.0 MiB" in size
    assert superpose("cache", "clear").stdout.startswith("removed")
    assert not kept.exists()
    assert superpose("cache", "size").stdout.startswith("0 steps")


def test_models_list_names_the_registered_models(superpose):
    rows = json.loads(superpose("models", "list", "--json").stdout)
    assert {"smollm2-135m-instruct-q4_1", "gemma3-270m-q4_k_m"} <= {row["name"] for row in rows}
