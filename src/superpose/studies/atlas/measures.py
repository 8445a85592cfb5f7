"""How each claim of the atlas is measured."""

from itertools import combinations

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_seeds
from superpose.studies.atlas.cells import Atlas, measure_cells, measure_costs
from superpose.studies.atlas.config import Config
from superpose.studies.atlas.contests import FAMILY, LINEAR, Contest

TURN = 0.1  # a lead or a lag of at least this share counts when two readings are compared


def measure_contest(run: Run[Config], contest: Contest) -> None:
    """A1, A2: what each of the named backbones reaches on the task, and the gap between the two sides."""
    atlas = measure_cells(run, (*contest.able, *contest.unable), (contest.task,)).finite()
    skill = {m: atlas.skills(atlas.tasks, [m])[0, 0] for m in atlas.models if atlas.tasks}
    _count(run, contest.claim, len(skill))
    for model, reached in skill.items():
        run.measure(contest.claim, over_seeds(model, reached))
    if len(skill) == len(contest.able) + len(contest.unable):
        gap = np.min([skill[m] for m in contest.able], 0) - np.max([skill[m] for m in contest.unable], 0)
        run.measure(contest.claim, over_seeds("gap", gap))


def measure_everybody(run: Run[Config]) -> None:
    """A3: the backbone that gets least far on linear regression, seed by seed."""
    whole = measure_cells(run, tasks=(LINEAR,))
    atlas = whole.finite()
    _count(run, "A3", len(atlas.models) if atlas.tasks else 0)
    if atlas.tasks and atlas.models:
        skills = atlas.skills(atlas.tasks, atlas.models)[0]
        run.measure("A3", over_seeds("weakest", skills.min(0)))
        run.note(f"A3: the weakest is {atlas.models[int(skills.mean(1).argmin())]}")


def measure_hybrid(run: Run[Config]) -> None:
    """A4: how far the hybrid stays behind the better of its parents, on the task where it stays behind most."""
    atlas = measure_cells(run, FAMILY).finite()
    _count(run, "A4", len(atlas.models) * len(atlas.tasks))
    if set(atlas.models) != set(FAMILY):
        return
    hybrid, *parents = (atlas.skills(atlas.tasks, [m])[:, 0] for m in FAMILY)
    behind = np.max(parents, 0) - hybrid
    run.measure("A4", over_seeds("most-behind", behind.max(0)))
    run.note(f"A4: most behind on {atlas.tasks[int(behind.mean(1).argmax())]}")


def measure_no_winner(run: Run[Config]) -> None:
    """A5: how far even the best all-rounder stays behind the leader of some task, at equal compute."""
    atlas = measure_cells(run).finite()
    _count(run, "A5", len(atlas.models) * len(atlas.tasks))
    if len(atlas.models) < 2:
        return
    cost = measure_costs(run, atlas)
    skills = np.array([[_skill(atlas, t, m, cost) for m in atlas.models] for t in atlas.tasks])
    behind = (skills.max(1, keepdims=True) - skills).max(0)  # [models, seeds], on each one's worst task
    run.measure("A5", over_seeds("least-behind", behind.min(0)))
    run.note(f"A5: the best all-rounder at equal compute is {atlas.models[int(behind.mean(1).argmin())]}")


def measure_table(run: Run[Config]) -> None:
    """A0: every cell, at equal steps and at equal compute, with the curves behind it."""
    atlas = measure_cells(run)
    cost = measure_costs(run, atlas)
    for task in atlas.tasks:
        for model in atlas.models:
            _learning(run, atlas, task, model, cost[task, model])
            run.measure("A0", exact(f"seconds.{task}.{model}", cost[task, model], unit="s per update"))
        _bounds(run, atlas, task, cost)
    for model in atlas.models:
        tasks = [task for task in atlas.tasks if atlas.cells[task, model].whole]
        read = {
            "steps": [atlas.at_equal_steps(t, model) for t in tasks],
            "compute": [atlas.at_equal_compute(t, model, cost) for t in tasks],
        }
        for name, errors in read.items():
            skills = [atlas.cells[t, model].skill(e) for t, e in zip(tasks, errors, strict=True)]
            _row(run, f"skill-{name}", model, tasks, skills)
            _row(run, f"error-{name}", model, tasks, errors)
    for trouble in atlas.troubles:
        run.note(f"A0: diverged: {trouble}")
    unknown = [task for task in atlas.tasks if not atlas.known[task]]
    if unknown:
        run.note(f"A0: no optimum is known on {', '.join(unknown)}: 0 stands in, so the true share is larger")
    sizes = sorted({cell.parameters for cell in atlas.cells.values()})
    run.note(f"A0: learners of {sizes[0]} to {sizes[-1]} parameters")
    _turns(run, atlas.finite(), cost)


def _row(run: Run[Config], curve: str, model: str, tasks: list[str], values: list[np.ndarray]) -> None:
    found: list[Measurement] = [over_seeds(f"{curve}.{t}.{model}", v) for t, v in zip(tasks, values, strict=True)]
    run.curve_of(curve, model, tasks, found)
    run.measure("A0", *found)


def _learning(run: Run[Config], atlas: Atlas, task: str, model: str, cost: float) -> None:
    cell = atlas.cells[task, model]
    kept = [at for at in range(len(cell.points)) if np.isfinite(cell.errors[:, at]).all()]
    points = [over_seeds("error", cell.errors[:, at]) for at in kept]
    run.curve_of(f"learning-steps-{task}", model, [cell.points[at] for at in kept], points)
    run.curve_of(f"learning-seconds-{task}", model, [cell.points[at] * cost for at in kept], points)


def _bounds(run: Run[Config], atlas: Atlas, task: str, cost: dict[tuple[str, str], float]) -> None:
    """The two ends of a task's scale, as lines over the learning curves and as measurements."""
    cells = [atlas.cells[task, model] for model in atlas.models]
    steps = cells[0].points[-1]
    ends = {"steps": steps, "seconds": steps * max(cost[task, model] for model in atlas.models)}
    name = "optimum" if atlas.known[task] else "bound"
    run.measure("A0", exact(f"chance.{task}", cells[0].chance), exact(f"{name}.{task}", cells[0].floor))
    for arm, value in (("chance", cells[0].chance), ("optimum" if atlas.known[task] else "zero", cells[0].floor)):
        for along, end in ends.items():
            run.curve(f"learning-{along}-{task}", arm, [0, end], [value, value])


def _turns(run: Run[Config], atlas: Atlas, cost: dict[tuple[str, str], float]) -> None:
    """How often a clear lead at equal steps is a clear lag at equal compute, over tasks and pairs of backbones."""
    pairs = list(combinations(range(len(atlas.models)), 2))
    if not pairs:
        return
    steps = atlas.skills(atlas.tasks, atlas.models)
    compute = np.array([[_skill(atlas, t, m, cost) for m in atlas.models] for t in atlas.tasks])
    turned = np.zeros(steps.shape[-1])
    for a, b in pairs:
        one, other = steps[:, a] - steps[:, b], compute[:, a] - compute[:, b]
        turned += ((one >= TURN) & (other <= -TURN) | (one <= -TURN) & (other >= TURN)).sum(0)
    run.measure("A0", over_seeds("order-turns", turned / (len(pairs) * len(atlas.tasks)), unit="of pairs"))


def _skill(atlas: Atlas, task: str, model: str, cost: dict[tuple[str, str], float]) -> np.ndarray:
    return atlas.cells[task, model].skill(atlas.at_equal_compute(task, model, cost))


def _count(run: Run[Config], claim: str, cells: int) -> None:
    """How many cells stood by for a claim: with narrowed lists it may be none, and then nothing else is measured."""
    run.measure(claim, exact("cells", cells))
