"""Regenerate what the README shows of results/: the verdict table, and the figure. Run by `make readme`."""

from pathlib import Path

from superpose.experiment import Store, newest
from superpose.report import claims_rows, save_png, update_readme
from superpose.studies import all_studies

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"task-superposition": ("mixtures", "interpolation", "segment")}


def main() -> None:
    """Rewrite the README's table and the PNGs in docs/figures."""
    runs, problems = Store(ROOT / "results").runs()
    if problems:
        raise SystemExit("\n".join(problems))
    studies = all_studies()
    update_readme(ROOT / "README.md", claims_rows(runs, studies))
    shown = newest(runs)
    for slug, figures in FIGURES.items():
        tables = shown[slug, "laptop"].tables()
        for figure in studies[slug].figures:
            if figure.id in figures:
                save_png(figure, tables, ROOT / "docs" / "figures" / f"{slug}-{figure.id}.png")


if __name__ == "__main__":
    main()
