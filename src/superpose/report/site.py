"""The static site: pages, one style sheet and two scripts that open from disk without a network."""

import shutil
import uuid
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Any

from superpose.errors import InputError, require
from superpose.experiment import Store, StoredRun, Study
from superpose.experiment.claim import VERDICTS
from superpose.report.info import Studies, StudyInfo, by_slug
from superpose.report.pages import StudyView, badge, study_views
from superpose.report.verdicts import shown

MARKER = ".superpose-site"  # by this file we know a folder that may be replaced


def build_site(store: Store, out: Path, studies: Studies = ()) -> Path:
    """Build the site of a store's runs and put it in place of the old one.

    Args:
        store: where the runs are; an empty one gives a page that says how to run the first study.
        out: the site's folder: missing, empty, or a site that this function has built before.
        studies: the studies of today's code: their figures are drawn and their criteria judge. Runs of other studies
            are shown with the verdicts they were saved with and one figure per curve.

    Returns:
        The front page.

    Raises:
        InputError: ``out`` holds something else, or is not writable, or jinja2 or plotly is not installed.
    """
    jinja2 = require("jinja2", "report")
    require("plotly", "report")
    out = out.resolve()
    _check(out)
    runs, problems = store.runs()
    known = by_slug(studies)
    views = study_views(runs, known)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("superpose.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    # A NaN or an infinity in a figure must stop the build rather than the reader's browser.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.globals["badge"] = badge
    scratch = out.with_name(f".{out.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        (scratch / "studies").mkdir(parents=True)
        (scratch / MARKER).write_text("This folder is replaced by `superpose report`.\n", encoding="utf-8")
        _assets(scratch / "assets")
        front = environment.get_template("front.html").render(root="", **_front(views, problems, runs, known))
        (scratch / "index.html").write_text(front, encoding="utf-8")
        for view in views:
            page = environment.get_template("study.html").render(root="../", study=view)
            (scratch / "studies" / view.page).write_text(page, encoding="utf-8")
        _swap(scratch, out)
    except OSError as error:
        raise InputError(
            f"--out {str(out)!r} cannot be written ({error.strerror}); allowed: a folder you can write"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return out / "index.html"


def _check(out: Path) -> None:
    allowed = "allowed: a new or empty folder, or a site built before"
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r} is a file; {allowed}")
    try:
        foreign = out.exists() and any(out.iterdir()) and not (out / MARKER).exists()
    except OSError as error:
        raise InputError(f"--out {str(out)!r} cannot be read ({error.strerror}); {allowed}") from error
    if foreign:
        raise InputError(f"--out {str(out)!r} holds files that are not a site; {allowed}")


def _front(
    views: list[StudyView], problems: list[str], runs: list[StoredRun], known: dict[str, Study]
) -> dict[str, Any]:
    # The same claims as in `superpose claims`, in the same order; a study's page has more.
    found = {(run.id, claim.id): (view, run, claim) for view in views for run in view.runs for claim in run.claims}
    lines = [found[run.record.id, claim] for run, claim in shown(runs, known)]
    counts = Counter(claim.badge.word for _, _, claim in lines)
    return {
        "views": views,
        "lines": lines,
        "counts": [(badge(verdict), counts[verdict]) for verdict in VERDICTS if counts[verdict]],
        "scales": [scale for scale in ("gpu", "laptop", "smoke") if any(run.scale == scale for _, run, _ in lines)],
        "problems": problems,
        "runs": len(runs),
        "waiting": [
            StudyInfo.from_study(study) for slug, study in known.items() if slug not in {v.info.slug for v in views}
        ],
    }


def _assets(folder: Path) -> None:
    folder.mkdir()
    for entry in (resources.files("superpose.report") / "assets").iterdir():
        (folder / entry.name).write_bytes(entry.read_bytes())
    bundle = resources.files("plotly") / "package_data" / "plotly.min.js"
    (folder / bundle.name).write_bytes(bundle.read_bytes())


def _swap(scratch: Path, out: Path) -> None:
    """Rename the new site in; should that fail, the old one is put back."""
    old = out.with_name(f".{out.name}.old-{uuid.uuid4().hex[:8]}")
    if out.exists():
        out.rename(old)
    try:
        scratch.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)
