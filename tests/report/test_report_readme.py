"""The script that regenerates the README says what it lacks."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs" / "readme.py"


def test_without_a_laptop_run_it_ends_with_one_sentence(tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]
    main.__globals__["ROOT"] = tmp_path
    with pytest.raises(SystemExit, match=r"results/ holds no laptop run of task-superposition with claim TS\d"):
        main()
    assert list(tmp_path.iterdir()) == []
