"""Every study passes these, without being named here."""

import subprocess
import sys
from pathlib import Path

import pytest

from superpose.experiment import Study
from superpose.experiment.claim import SCALES
from superpose.studies import all_studies

STUDIES = list(all_studies().values())


def by_slug(study: Study) -> str:
    return study.slug


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_its_package_is_named_after_it_and_lies_in_a_room(study):
    import superpose

    assert study.slug == study.slug.lower().replace("_", "-")
    assert (Path(superpose.__file__).parent / study.room).is_dir()


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_its_card_and_its_page_exist(study):
    assert (Path(__file__).parents[2] / study.card).is_file()


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_every_scale_has_a_valid_preset(study):
    assert set(study.presets) == set(SCALES)
    for scale in SCALES:
        study.preset(scale)
    assert study.preset("laptop").seeds >= 3


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_every_claim_that_can_be_measured_is_measured_by_something(study):
    measured = {claim for measure in study.measures for claim in measure.claims}
    assert measured == {claim.id for claim in study.claims if claim.role != "unmeasurable"}


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_judged_claims_have_a_laptop_criterion_or_none_at_all(study):
    for claim in study.claims:
        if claim.role == "judged":
            assert "laptop" in claim.criteria, claim.id


@pytest.mark.parametrize("study", STUDIES, ids=by_slug)
def test_figures_have_unique_ids_named_axes_and_known_claims(study):
    ids = [figure.id for figure in study.figures]
    assert len(set(ids)) == len(ids)
    known = {claim.id for claim in study.claims}
    for figure in study.figures:
        assert figure.x_label
        assert figure.y_label
        assert set(figure.claims) <= known


def test_listing_studies_imports_no_torch():
    code = (
        "import sys; from superpose.studies import all_studies; all_studies(); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
