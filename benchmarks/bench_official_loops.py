"""Our trainer against the training loops of two papers' repositories, each as it was written, on the CPU.

``bench_training.py`` compares with loops that are written as the papers' are; here those of Leiay/looped_transformer
and krafton-ai/mambaformer-icl run themselves, from clones that you have: their samplers, models, optimiser, training
step, curriculum and progress bar, at a laptop's sizes. What is changed as they load stands in ``official_models.py``:
CUDA devices become the CPU, Mamba's CUDA kernels ``transformers``' MambaMixer, and what they log to does nothing;
neither logs nor saves inside what is timed. Ours draws the same tasks (one parity per batch, as that sampler does)
and has the same objective, optimiser, learning rate, clipping, curriculum and a progress bar that is redrawn as
often. Models are the same up to their initial draw (``bench_training.py`` compares their outputs on equal weights).

Timed is CPU time per step over the second half of each run; compiling and the looped model's growing number of loops
are in the first half. Who goes first changes with every seed, and ratios are medians of pairs. A ratio above 1 means
that ours is faster. As every side draws its own weights and episodes, loss curves are compared over seeds: Welch's
t-test on the mean loss of each of several windows of steps; "the same" where p, times the number of windows, is above
0.01 in all of them. Compiled and plain runs of ours have equal seeds, and must have equal losses.

    python benchmarks/bench_official_loops.py --looped CLONE --mambaformer CLONE [--cases looped ...]
        [--steps 180] [--repeats 5] [--threads 1] [--json FILE]
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from scipy.stats import ttest_ind
from tqdm import tqdm
from transformers.utils import logging

from official_models import HYBRID_HEADS, looped_loop, mambaformer_loop
from superpose.errors import InputError, choose
from superpose.models import ContinuousLearner, backbone_spec
from superpose.tasks import task
from superpose.training import Curriculum, Ramp, train_in_context

WIDTH, HEADS, BATCH, CLIP = 32, 4, 64, 10.0
LOOPS, WINDOW, MORE_LOOPS = 12, 6, 2
BAR, LEAST_P, WINDOWS = 1.5, 0.01, 6
# Rounding only, before training amplifies it.
FIRST, TOLERANCE = 10, 1e-4
# Steps of the second half in which a compiler may still be at work.
SETTLE = 3
LEAST_STEPS = 24
PARITY: dict[str, Any] = {"dim": 4, "k": 2, "points": 12}
LINEAR: dict[str, Any] = {"dim": 3, "points": 8}


@dataclass(frozen=True)
class Case:
    """One row: an architecture of one of the repositories.

    Attributes:
        label: what is printed.
        clone: the option that names the repository.
        architecture, depth, heads: ours.
        family, layers: the same in the repository's words.
        lr: learning rate of both sides.
    """

    label: str
    clone: str
    architecture: str
    depth: int
    heads: int
    family: str
    layers: int
    lr: float


CASES = {
    "transformer-12": Case("12 layers, linear", "looped", "transformer", 12, HEADS, "gpt2", 12, 1e-3),
    "looped": Case("looped 12 (window 6), linear", "looped", "looped", 1, HEADS, "gpt2_loop", 1, 2e-3),
    "transformer-2": Case("2 layers, parity", "mambaformer", "transformer", 2, HEADS, "gpt2", 2, 3e-3),
    "mambaformer": Case("mambaformer, parity", "mambaformer", "mambaformer", 1, HYBRID_HEADS, "tf-mamba", 2, 3e-3),
}


@dataclass
class Run:
    """One training run: each step's loss, and the CPU and wall clock at its end."""

    began: float = field(default_factory=time.perf_counter)
    losses: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    # CPU seconds that gradient norms took at the end of each step, where a loop computes them only to log them.
    norms: list[float] = field(default_factory=list)

    def mark(self) -> None:
        self.cpu.append(time.process_time())
        self.wall.append(time.perf_counter())

    def per_step(self, clock: list[float]) -> float:
        """Mean of a clock's advance over the steps that are timed."""
        start = len(clock) // 2 + SETTLE
        return (clock[-1] - clock[start]) / (len(clock) - 1 - start)

    def compiling(self) -> float:
        """Wall seconds by which steps of the first half exceed a step of the second, where far above it."""
        steps, usual = np.diff([self.began, *self.wall]), self.per_step(self.wall)
        first = steps[: len(self.wall) // 2 + SETTLE]
        return float((first[first > 5 * usual] - usual).sum())

    def windows(self) -> list[float]:
        return [float(part.mean()) for part in np.array_split(np.asarray(self.losses), WINDOWS)]


def ramp_interval(steps: int) -> int:
    """Steps between two additions of loops; 100 as the laptop recipe has it, if the ramp ends before the timing."""
    additions = (LOOPS - WINDOW) // MORE_LOOPS
    return min(100, steps // (2 * additions))


@contextmanager
def silently() -> Iterator[None]:
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def watched(loop: ModuleType) -> Iterator[Run]:
    """Note the loss and the clock whenever a loop's own training step returns."""
    run, losses = Run(), []
    # One of the loops sets these for its CUDA device; ours must run, and stay compiled, under the same as before.
    precision, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    step: Callable[..., Any] = loop.train_step
    norm: Callable[..., Any] | None = getattr(loop, "calculate_gradient_norm", None)
    spent = 0.0

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = step(*args, **kwargs)
        run.mark()
        run.norms.append(spent)
        losses.append(result[0])
        return result

    def timed_norm(*args: Any) -> Any:
        nonlocal spent
        start = time.process_time()
        result = norm(*args)  # type: ignore[misc]
        spent += time.process_time() - start
        return result

    setattr(loop, "train_step", noted)  # noqa: B010
    if norm is not None:
        setattr(loop, "calculate_gradient_norm", timed_norm)  # noqa: B010
    try:
        yield run
    finally:
        setattr(loop, "train_step", step)  # noqa: B010
        if norm is not None:
            setattr(loop, "calculate_gradient_norm", norm)  # noqa: B010
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = convolutions
        run.losses = [float(loss) for loss in losses]


def constant(value: int) -> SimpleNamespace:
    return SimpleNamespace(start=value, end=value, inc=0, interval=1)


def theirs(loop: ModuleType, case: Case, seed: int, steps: int) -> Run:
    """Run a repository's own loop, logging and saving at the first step only (or never)."""
    sizes = LINEAR if case.clone == "looped" else PARITY
    never = steps + 1
    model = SimpleNamespace(
        family=case.family,
        n_embd=WIDTH,
        n_layer=case.layers,
        n_head=HEADS,
        n_dims=sizes["dim"],
        n_positions=sizes["points"],
    )
    curriculum = SimpleNamespace(dims=constant(sizes["dim"]), points=constant(sizes["points"]))
    training = SimpleNamespace(
        curriculum=curriculum,
        batch_size=BATCH,
        learning_rate=case.lr,
        train_steps=steps,
        save_every_steps=never,
        keep_every_steps=-1,
    )
    wandb = SimpleNamespace(log_every_steps=never, project=None, notes=None, name="loop")
    with tempfile.TemporaryDirectory() as folder, silently(), watched(loop) as run:
        args = SimpleNamespace(model=model, training=training, wandb=wandb, out_dir=folder)
        if case.clone == "looped":
            model.pred_type, model.loop_func, model.pretrained_path = "regression", "z=f(x+z)", None
            curriculum.loops = SimpleNamespace(start=WINDOW, end=LOOPS, inc=MORE_LOOPS, interval=ramp_interval(steps))
            training.seed, training.task_name, training.weight_decay = seed, "linear_regression", 0.0
            training.n_loop_window, training.sparsity = WINDOW, None
            training.use_ctx = training.use_fixed_dataset = training.add_inputs_embeds = False
            args.debug_mode = True
            loop.main(args, torch.device("cpu"))
        else:
            model.mixed_attn = "mambaformer" if case.architecture == "mambaformer" else None
            training.task, training.data = "sparse_parity", "sparse_parity_sampler"
            training.task_kwargs, training.data_sampler_kwargs = {"k": PARITY["k"]}, None
            training.num_tasks = training.num_training_examples = None
            training.gradient_clip = CLIP
            # A test run is one that neither logs nor saves nor evaluates.
            args.test_run = True
            torch.manual_seed(seed)
            built = loop.build_model(model)
            built.train()
            loop.train(built, args)
    return run


def ours(learner: ContinuousLearner, compile: bool, case: Case, seed: int, steps: int) -> Run:
    """Run our trainer with what the repository's loop has."""
    looped = case.clone == "looped"
    drawn_from = task("linear", **LINEAR) if looped else task("sparse-parity", shared_per_batch=True, **PARITY)
    window: dict[str, Any] = {}
    if case.architecture == "looped":
        ramp = Ramp(WINDOW, LOOPS, MORE_LOOPS, ramp_interval(steps))
        window = {"window": WINDOW, "curriculum": Curriculum(loops=ramp)}
    run = Run()
    with silently(), tqdm(total=steps) as bar:

        def on_step(done: int) -> None:
            run.mark()
            bar.update()
            bar.set_description(f"step {done}")

        history = train_in_context(
            learner,
            drawn_from,
            seed=seed,
            steps=steps,
            batch=BATCH,
            lr=case.lr,
            clip=None if looped else CLIP,
            compile=compile,
            on_step=on_step,
            **window,
        )
    run.losses = history.losses.tolist()
    return run


SIDES = ("official", "plain", "compiled")


def measure(case: Case, loop: ModuleType, options: argparse.Namespace) -> dict[str, list[Run]]:
    """One run of each side per seed."""
    sizes = LINEAR if case.clone == "looped" else PARITY
    spec = backbone_spec(
        case.architecture, width=WIDTH, heads=case.heads, depth=case.depth, max_positions=2 * sizes["points"]
    )
    torch._dynamo.reset()
    # One learner for all compiled runs: another one would be compiled anew.
    compiled = ContinuousLearner(spec, sizes["dim"], 1, seed=0)
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for seed in range(options.repeats):
        learner = ContinuousLearner(spec, sizes["dim"], 1, seed=seed)
        compiled.load_state_dict(learner.state_dict())
        sides: dict[str, Callable[[], Run]] = {
            "official": partial(theirs, loop, case, seed, options.steps),
            "plain": partial(ours, learner, False, case, seed, options.steps),
            "compiled": partial(ours, compiled, True, case, seed, options.steps),
        }
        # Who goes first changes, so that no side always has the warmer cache.
        for side in SIDES if seed % 2 else SIDES[::-1]:
            runs[side].append(sides[side]())
    return runs


@dataclass
class Row:
    """What one case showed; times are CPU milliseconds per step."""

    case: str
    ms: dict[str, float]
    norms_ms: float
    ratio: dict[str, float]
    ratios: dict[str, list[float]]
    compile_seconds: float
    apart: float
    curves: dict[str, list[list[float]]]
    p: list[float]

    @property
    def same(self) -> bool:
        return min(self.p) > LEAST_P


def summarise(name: str, runs: dict[str, list[Run]]) -> Row:
    seconds = {side: [run.per_step(run.cpu) for run in of_side] for side, of_side in runs.items()}
    pairs = list(zip(runs["plain"], runs["compiled"], strict=True))
    apart = max(float(np.abs(np.asarray(a.losses[:FIRST]) / np.asarray(b.losses[:FIRST]) - 1).max()) for a, b in pairs)
    if apart > TOLERANCE:
        raise SystemExit(f"{name}: compiled and plain losses differ by {apart:.1e} in {FIRST} steps")
    curves = {side: [run.windows() for run in runs[side]] for side in SIDES[:2]}
    test: Any = ttest_ind(curves["official"], curves["plain"], axis=0, equal_var=False)
    official = runs["official"]
    ratios = {side: [a / b for a, b in zip(seconds["official"], seconds[side], strict=True)] for side in SIDES[1:]}
    return Row(
        case=name,
        ms={side: 1e3 * statistics.median(of_side) for side, of_side in seconds.items()},
        norms_ms=1e3 * statistics.median(run.per_step(run.norms) for run in official),
        ratio={side: statistics.median(of_side) for side, of_side in ratios.items()},
        ratios=ratios,
        compile_seconds=max(run.compiling() for run in runs["compiled"]),
        apart=apart,
        curves=curves,
        p=np.minimum(1.0, np.asarray(test.pvalue) * WINDOWS).tolist(),
    )


def show(case: Case, row: Row) -> None:
    norms = f" (gradient norms {row.norms_ms:.2f})" if row.norms_ms else ""
    plain, compiled = (
        f"{row.ms[side]:6.2f} ({row.ratio[side]:.2f}x, {min(row.ratios[side]):.2f} to {max(row.ratios[side]):.2f})"
        for side in SIDES[1:]
    )
    print(
        f"{case.label:29} official {row.ms['official']:7.2f}{norms}  superpose {plain}  compiled {compiled}"
        f" after {row.compile_seconds:.0f} s of compiling"
    )
    verdicts = (f"{side} {'met' if row.ratio[side] >= BAR else 'missed'}" for side in SIDES[1:])
    print(f"    bar {BAR}: {', '.join(verdicts)}")
    for side, curve in row.curves.items():
        means, spread = np.mean(curve, axis=0), np.std(curve, axis=0, ddof=1)
        windows = " ".join(f"{mean:8.4f}±{sd:.4f}" for mean, sd in zip(means, spread, strict=True))
        print(f"    loss {'superpose' if side == 'plain' else side:9} {windows}")
    print(
        f"    p, corrected   {' '.join(f'{p:8.3f}       ' for p in row.p)}\n"
        f"    curves: {'the same' if row.same else 'NOT the same'} over {len(row.curves['plain'])} seeds"
        f" (compiled and plain apart {row.apart:.0e} in {FIRST} steps)",
        flush=True,
    )


def loops_of(options: argparse.Namespace) -> tuple[list[str], dict[str, ModuleType]]:
    """The cases to run, and the repositories' loops that they need."""
    if options.steps < LEAST_STEPS:
        raise InputError(f"--steps is {options.steps}; allowed: {LEAST_STEPS} or more")
    if options.repeats < 2:
        raise InputError(f"--repeats is {options.repeats}; allowed: 2 or more, as curves are compared over seeds")
    given = [clone for clone in ("looped", "mambaformer") if getattr(options, clone) is not None]
    for name in options.cases or ():
        choose("--cases", name, CASES)
        if CASES[name].clone not in given:
            raise InputError(f"--cases is {name}; it needs a clone: --{CASES[name].clone} CLONE")
    if not given:
        raise InputError("neither --looped nor --mambaformer is given; allowed: a clone of at least one of them")
    load = {"looped": looped_loop, "mambaformer": mambaformer_loop}
    names = options.cases or [name for name, case in CASES.items() if case.clone in given]
    return names, {clone: load[clone](getattr(options, clone)) for clone in given}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--looped", type=Path, metavar="CLONE")
    parser.add_argument("--mambaformer", type=Path, metavar="CLONE")
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--steps", type=int, default=180)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    logging.set_verbosity_error()
    names, loops = loops_of(options)
    print(
        f"width {WIDTH}, batch {BATCH}, {options.threads} thread(s); CPU milliseconds per training step, medians of"
        f" {options.repeats} seeds x {options.steps} steps; mean loss ± deviation over seeds in {WINDOWS} windows"
    )
    rows = []
    for name in names:
        row = summarise(name, measure(CASES[name], loops[CASES[name].clone], options))
        show(CASES[name], row)
        rows.append(asdict(row) | {"same": row.same})
    if options.json is not None:
        sizes = {"threads": options.threads, "steps": options.steps, "repeats": options.repeats}
        options.json.write_text(json.dumps(sizes | {"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
