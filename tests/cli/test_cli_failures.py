"""What the command line says when something goes wrong, called in this process with toy studies."""

import json
import sys
import warnings
from dataclasses import replace

import pytest

import toy_study
from superpose import cli
from superpose.errors import InputError
from superpose.experiment import Claim, Study, above
from superpose.experiment.run import StepFailed
from superpose.interpret import TokenBoundaryWarning
from superpose.models.pretrained.fetch import FetchError


def study(slug, fails=None):
    made = replace(toy_study.study, slug=slug, measures=[], claims=toy_study.study.claims[1:])
    if fails is None:
        made.measured_by("T2")(toy_study.measure_walks)
        made.measured_by("T3")(toy_study.measure_clock)
        return made

    def measure(_):
        raise fails

    made.measured_by("T2", "T3")(measure)
    return made


@pytest.fixture
def superpose(monkeypatch, tmp_path, capsys):
    """Call the command line with some studies, and return its exit code, stdout and stderr."""
    monkeypatch.setenv("SUPERPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(*arguments, studies: tuple[Study, ...] = ()):
        monkeypatch.setattr("superpose.studies.get_study", {s.slug: s for s in studies}.__getitem__)
        monkeypatch.setattr("superpose.studies.all_studies", lambda: pytest.fail("only the named studies are needed"))
        monkeypatch.setattr(sys, "argv", ["superpose", *arguments])
        code = cli._run()
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize("error", [StepFailed("step draw failed:\nout of luck"), FetchError("pip said\nno")])
def test_expected_failures_are_one_sentence_and_exit_1(superpose, monkeypatch, error):
    def app(**_):
        raise error

    monkeypatch.setattr(cli, "app", app)
    code, out, err = superpose()
    assert (code, out) == (1, "")
    assert err == f"failed: {' '.join(str(error).split())}\n"


def test_an_unexpected_error_keeps_its_traceback(superpose, monkeypatch):
    def app(**_):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(ZeroDivisionError):
        superpose()


def test_a_refusal_of_the_second_study_does_not_hide_the_first(superpose):
    studies = (study("first"), study("second", InputError("the context is too short")), study("third"))
    code, out, err = superpose("run", "first", "second", "third", "--json", "--quiet", studies=studies)
    assert code == 1
    assert [record["study"] for record in json.loads(out)] == ["first", "third"]
    assert "failed second: the context is too short\n" in err
    assert err.endswith("failed: 1 of 3 studies: second\n")


def test_a_refusal_of_the_only_study_is_bad_usage_and_a_failed_step_is_not(superpose):
    code, _, err = superpose("run", "one", "-q", studies=(study("one", InputError("too short")),))
    assert (code, err) == (2, "error: too short\n")
    code, _, err = superpose("run", "one", "-q", studies=(study("one", StepFailed("step walk failed: no")),))
    assert (code, err) == (1, "failed: one: step walk failed: no\n")


def test_a_run_prints_the_claims_that_were_asked_for(superpose):
    code, out, _ = superpose("run", "toy", "--claims", "T2", "-q", studies=(study("toy"),))
    assert code == 0
    assert "T2" in out
    assert "T3" not in out


@pytest.mark.parametrize("claims", [",", "", " , "])
def test_claims_without_a_claim_are_refused(superpose, claims):
    code, _, err = superpose("run", "toy", "--claims", claims, studies=(study("toy"),))
    assert code == 2
    assert f"--claims is {claims!r}" in err


def test_the_number_of_seeds_is_refused_by_its_options_name(superpose):
    _, _, err = superpose("run", "toy", "--seeds", "0", studies=(study("toy"),))
    assert err == "error: --seeds is 0; allowed: 1 or more\n"
    _, _, err = superpose("run", "toy", "--set", "seeds=0", studies=(study("toy"),))
    assert err == "error: --set seeds is '0'; allowed: 1 or more\n"


def test_a_warning_is_one_line_once(superpose, monkeypatch):
    def app(**_):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            for _ in range(2):
                warnings.warn("the tokens differ", TokenBoundaryWarning, stacklevel=1)

    monkeypatch.setattr(cli, "app", app)
    with warnings.catch_warnings():
        code, _, err = superpose()
    assert (code, err) == (0, "warning: the tokens differ\n")


def test_show_keeps_long_measurement_names_whole(superpose):
    name = "first." + "x" * 200 + ".last"
    claim = Claim(id="C", sentence="s [/bold]", paper_figure="f", criteria={"laptop": above(name, 0)})
    code, out, _ = superpose("show", "long", studies=(replace(toy_study.study, slug="long", claims=(claim,)),))
    assert code == 0
    assert name in "".join(line.strip() for line in out.splitlines())
    assert "s [/bold]" in out
