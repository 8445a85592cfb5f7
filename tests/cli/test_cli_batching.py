"""``superpose batching`` as a user meets it."""

import json
import subprocess
import sys

import pytest


@pytest.fixture
def batching(tmp_path):
    def call(*arguments):
        code = "from superpose.cli import main; main()"
        return subprocess.run(
            [sys.executable, "-c", code, "batching", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return call


def test_plan_of_a_table_says_how_many_bins(batching, tmp_path):
    (tmp_path / "lengths.csv").write_text("id,tokens\n" + "".join(f"{i},{1 + i % 200}\n" for i in range(1000)))
    arguments = ("plan", "lengths.csv", "--column", "tokens", "-B", "8", "-k", "1,2,4", "--within", "0.2")
    done = batching(*arguments, "--rate", "0.06", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["recommended_bins"] == 4
    assert document["limit"] == pytest.approx(8 / 100.5)
    one, two, four = document["plans"]
    assert one["throughput"] < two["throughput"] < four["throughput"] < document["limit"]
    assert (one["stable"], one["latency"], four["stable"]) == (False, None, True)
    assert "latency grows without bound" in done.stderr
    table = batching(*arguments)
    assert "recommended: 4 bins" in table.stdout
    assert "50.5, 100.5, 150.5" in table.stdout


def test_simulation_agrees_with_the_plan(batching):
    shared = ("mixtral_8x7b", "-k", "1,4", "--seconds-per-token", "0.0366", "--servers", "8", "--json")
    plans = json.loads(batching("plan", *shared).stdout)["plans"]
    runs = json.loads(batching("simulate", *shared, "--requests", "40000").stdout)["runs"]
    for plan, run in zip(plans, runs, strict=True):
        assert run["throughput"] == pytest.approx(plan["throughput"], rel=0.02)
        assert run["waste"] == pytest.approx(plan["waste"], abs=0.02)


def test_simulation_prints_a_table_and_knows_mistakes(batching):
    done = batching("simulate", "gpt4_1106", "-k", "4", "--rate", "0.05", "--requests", "2000")
    assert done.returncode == 0, done.stderr
    assert "mean latency, step" in done.stdout
    right, wrong = (
        json.loads(batching("simulate", "gpt4_1106", "-k", "4", "--error", error, "--json").stdout)["runs"][0]
        for error in ("0", "0.3")
    )
    assert wrong["throughput"] < 0.95 * right["throughput"]


def test_few_distinct_lengths_are_said(batching, tmp_path):
    (tmp_path / "two.csv").write_text("n\n3\n3\n9\n")
    done = batching("plan", "two.csv", "-k", "1,8")
    assert done.returncode == 0
    assert "2 (of 8)" in done.stdout
    assert "fill only 2" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "nowhere.csv"), "is no file"),
        (("plan", "mixtral_8x7b", "-k", "1,x"), "--bins is '1,x'"),
        (("plan", "mixtral_8x7b", "-k", "0"), "--bins is '0'"),
        (("plan", "mixtral_8x7b", "-B", "0"), "batch_size is 0"),
        (("plan", "mixtral_8x7b", "--seconds-per-token", "0"), "--seconds-per-token is 0"),
        (("simulate", "mixtral_8x7b", "--requests", "0"), "--requests is 0"),
        (("simulate", "mixtral_8x7b", "--edges", "best"), "--edges is 'best'"),
        (("simulate", "mixtral_8x7b", "--rate", "-1"), "rate is -1"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_2(batching, arguments, message):
    done = batching(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout
    assert len(done.stderr.splitlines()) == 1
