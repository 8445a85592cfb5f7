"""How a config is refused, and how studies are found."""

import sys
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

import superpose.studies
import toy_study
from superpose.errors import InputError
from superpose.experiment import Study, StudyConfig


class Config(StudyConfig):
    how: Literal["near", "far"] = "near"
    dtype: Annotated[str, Field(pattern="^(float32|bfloat16)$")] = "float32"
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "a"
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    shares: Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], Field(min_length=2)] = (0.5, 0.5)

    @model_validator(mode="after")
    def _consistent(self):
        if self.how == "far" and self.share < 0.5:
            raise ValueError("how is 'far' and share below 0.5; allowed: one of them")
        return self


STUDY = Study(
    slug="s", title="", room="", paper="", card="", summary="", config=Config, presets={"laptop": {}}, claims=()
)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"how": "away"}, "--set how is 'away'; allowed: near, far"),
        ({"dtype": "int8"}, "--dtype is 'int8'; allowed: float32, bfloat16"),
        ({"name": "A"}, "--set name is 'A'; allowed: text that matches ^[a-z]+$"),
        ({"share": 1}, "--set share is 1; allowed: less than 1.0"),
        ({"share": 0}, "--set share is 0; allowed: more than 0.0"),
        ({"share": "half"}, "--set share is 'half'; allowed: a number"),
        ({"shares": "1,2"}, "--shares.1 is '2'; allowed: 1.0 or less"),
        ({"shares": "1"}, "--shares is ['1']; allowed: 2 or more values"),
        (
            {"how": "far", "share": 0.1},
            "--set how, --set share: how is 'far' and share below 0.5; allowed: one of them",
        ),
    ],
)
def test_a_refused_config_is_named_in_our_own_words(overrides, sentence):
    with pytest.raises(InputError) as caught:
        STUDY.configure("laptop", overrides, {"dtype": "--dtype", "shares": "--shares"})
    assert str(caught.value) == sentence


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Three studies: one whole, one broken, one only begun."""
    for name, text in {
        "good_one": "import toy_study, dataclasses\nstudy = dataclasses.replace(toy_study.study, slug='good-one')",
        "broken_one": "import nothing_of_that_name",
        "misnamed": "from toy_study import study",
        "begun": None,
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
        if text is not None:
            (tmp_path / name / "study.py").write_text(text)
    monkeypatch.setattr(superpose.studies, "__path__", [str(tmp_path)])
    superpose.studies.get_study.cache_clear()
    yield
    superpose.studies.get_study.cache_clear()
    for module in [m for m in sys.modules if m.startswith(("superpose.studies.good", "superpose.studies.begun"))]:
        del sys.modules[module]


def test_a_study_is_imported_alone(packages):
    assert superpose.studies.get_study("good-one").title == toy_study.study.title
    with pytest.raises(ModuleNotFoundError, match="nothing_of_that_name"):
        superpose.studies.get_study("broken-one")
    with pytest.raises(ValueError, match="has the slug 'toy'; allowed: 'misnamed'"):
        superpose.studies.get_study("misnamed")
    with pytest.raises(ModuleNotFoundError):
        superpose.studies.all_studies()


@pytest.mark.parametrize("slug", ["begun", "good_one", "nonsense", ""])
def test_an_unknown_study_names_those_there_are(packages, slug):
    with pytest.raises(InputError, match=f"study is '{slug}'; allowed: broken-one, good-one, misnamed"):
        superpose.studies.get_study(slug)
