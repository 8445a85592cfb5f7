"""Regenerate what the README shows of results/: the verdict table, and the figures. Run by `make readme`."""

from pathlib import Path

from superpose.experiment import Store, newest
from superpose.report import claims_rows, save_png, update_readme
from superpose.studies import all_studies

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {"task-superposition": ("mixtures", "interpolation", "segment"), "atlas": ("map",)}


def main() -> None:
    """Rewrite the README's table and the PNGs in docs/figures."""
    runs, problems = Store(ROOT / "results").runs()
    if problems:
        raise SystemExit("\n".join(problems))
    studies = all_studies()
    shown = newest(runs)
    drawn = [(slug, f) for slug, ids in FIGURES.items() for f in studies[slug].figures if f.id in ids]
    for slug, figure in drawn:
        if (slug, "laptop", figure.claims[0]) not in shown:
            raise SystemExit(
                f"results/ holds no laptop run of {slug} with claim {figure.claims[0]}: "
                f"superpose run {slug} --store results"
            )
    update_readme(ROOT / "README.md", claims_rows(runs, studies))
    for slug, figure in drawn:
        # The run from which the table takes the figure's first claim.
        tables = shown[slug, "laptop", figure.claims[0]].tables()
        save_png(figure, tables, ROOT / "docs" / "figures" / f"{slug}-{figure.id}.png")


if __name__ == "__main__":
    main()
