"""Models of every architecture trained on the in-context tasks, how long an update takes, and the exact checks."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from superpose.experiment import current, step, track
from superpose.models import ContinuousLearner, backbone_spec
from superpose.studies.mambaformer.config import LAST_LABELS
from superpose.tasks import Batch, ContinuousTask, ManyOutliers, SparseParity, VectorMQAR, clean_least_squares
from superpose.tasks import task as make_task
from superpose.theory import parity_bayes_accuracy
from superpose.training import Curriculum, KeptEvaluations, Ramp, evaluate, seconds_per_update, seeded, train_in_context

CLIP = {"vector-mqar": 100.0}  # the paper's; 10 on every other task
AT_ONCE = 128  # prompts per evaluation batch: long prompts through an SSM need much memory
FINAL = 100_000  # sets the seeds of the final prompts apart from those of the looks
RAMP_STAGES = 10  # of a curriculum, in the first third of the training
LAST_READS = {"sparse-parity": LAST_LABELS, "linear": 1}  # outlier tasks: the last quarter; retrieval: all queries


@step(version="1", label="models trained on in-context tasks")
def trained(
    architecture: str,
    depth: int,
    width: int,
    heads: int,
    state: int,
    task: str,
    task_options: dict[str, Any],
    train_steps: int,
    lr: float,
    batch: int,
    every: int,
    solved: float | None,
    look_prompts: int,
    final_prompts: int,
    seed: int,
    curriculum: bool = False,
) -> dict[str, Any]:
    """Train one model on one task, looking at its error as it learns.

    Args:
        architecture: one of ``BACKBONES``.
        depth: its repeats; for "mamba" the number of blocks.
        width, heads, state: sizes of every block.
        task, task_options: the task's name and fields.
        train_steps, lr, batch: of Adam, constant rate.
        every: updates between two looks.
        solved: error at which training stops; None: never.
        look_prompts, final_prompts: prompts per look, and fresh ones at the end.
        seed: of weights, training prompts and evaluation prompts.
        curriculum: let dimensions and length grow over the first third.

    Returns:
        ``looks`` (updates) and ``errors`` there, over the task's last reads; after training, on fresh prompts, the
        ``final`` error over those reads and its ``reference`` (least squares on clean pairs, or Bayes' predictor),
        both also per read (``by_read``, ``reference_by_read``); ``match``, how often the value nearest to the answer
        is the right one (retrieval only, else 0); ``steps`` made; ``parameters``.
    """
    chosen = make_task(task, **task_options)
    learner = build(architecture, depth, width, heads, state, chosen, seed).to(current().device)
    plan = _curriculum(chosen, train_steps) if curriculum else None
    folder = current().folder
    kept = KeptEvaluations(folder / "looks.safetensors")
    errors = [float(kept.rows[str(index)]) for index in range(len(kept.rows))]
    targets = [*range(every, train_steps, every), train_steps]

    def train(until: int) -> None:
        # A constant rate may be prolonged: every call goes on from the checkpoint of the one before it.
        train_in_context(
            learner,
            chosen,
            seed=seed,
            steps=until,
            batch=batch,
            lr=lr,
            clip=CLIP.get(task, 10.0),
            curriculum=plan,
            checkpoint=folder / "training",
            checkpoint_every=max(every, 500),
        )

    if errors:  # of a run that was killed
        train(targets[len(errors) - 1])
    for until in track(targets[len(errors) :], f"{architecture} on {task}"):
        if errors and solved is not None and errors[-1] <= solved:
            break
        train(until)
        batches = -(-look_prompts // AT_ONCE)
        found = evaluate(learner, chosen, batches=batches, batch=min(AT_ONCE, look_prompts), seed=seed)
        error = last(chosen, found).double().nanmean()
        kept.add({str(len(errors)): error})
        errors.append(float(error))
    looks = targets[: len(errors)]
    return {
        "looks": np.array(looks),
        "errors": np.array(errors),
        "steps": looks[-1],
        "parameters": sum(p.numel() for p in learner.parameters()),
        **_final(learner, chosen, final_prompts, seed + FINAL),
    }


def build(
    architecture: str, depth: int, width: int, heads: int, state: int, task: ContinuousTask, seed: int
) -> ContinuousLearner:
    """The model of an architecture for a task; ``depth`` of "mamba" counts blocks, of others their repeats."""
    options: dict[str, Any] = {"max_positions": task.length}
    if architecture == "mamba":
        # The registered stack comes in pairs of blocks.
        options |= {"layout": ("mamba",) * depth}
        depth = 1
    if architecture != "transformer":
        options |= {"knobs": {"mamba": {"state": state}}}
    spec = backbone_spec(architecture, width=width, heads=heads, depth=depth, **options)
    return ContinuousLearner(spec, task.in_dim, task.out_dim, seed=seed)


def last(task: ContinuousTask, errors: Tensor) -> Tensor:
    """The reads ``[prompts, last]`` on which a task is judged: those with most of the prompt before them."""
    reads = errors.shape[1]
    count = reads // 4 if isinstance(task, ManyOutliers) else LAST_READS.get(task.name, reads)
    return errors[:, -count:]


def _mean(errors: Tensor) -> float:
    # Outliers are not scored: NaN.
    return float(errors.double().nanmean())


def _curriculum(task: ContinuousTask, train_steps: int) -> Curriculum:
    """Dimensions from a quarter of the task's, and length with them, both growing over a third of the training."""
    interval = max(1, train_steps // (3 * RAMP_STAGES))
    sizes = {"dims": (task.in_dim, 3), "points": (task.length // 2, 4)}
    ramps = {}
    for name, (end, least) in sizes.items():
        start = min(end, max(least, end // 4))
        if start < end:
            ramps[name] = Ramp(start, end, max(1, -(-(end - start) // RAMP_STAGES)), interval)
    return Curriculum(ramps)


@torch.inference_mode()
def _final(learner: ContinuousLearner, task: ContinuousTask, prompts: int, seed: int) -> dict[str, Any]:
    learner.eval()
    device = next(learner.parameters()).device
    own, known, match = [], [], []
    for index, count in enumerate(_split(prompts)):
        drawn = task.sample(count, seeded(seed, "evaluate", index))
        outputs = learner(drawn.inputs.to(device), reads=drawn.reads.to(device)).cpu()
        unscored = drawn.weight == 0
        own.append(task.error(outputs, drawn).masked_fill(unscored, torch.nan))
        known.append(_reference(task, drawn).masked_fill(unscored, torch.nan))
        if isinstance(task, VectorMQAR):
            match.append(task.match_accuracy(outputs, drawn))
    errors, reference = torch.cat(own), torch.cat(known)
    return {
        "final": _mean(last(task, errors)),
        "reference": _mean(last(task, reference)),
        "by_read": errors.double().nanmean(0).numpy(),
        "reference_by_read": reference.double().nanmean(0).numpy(),
        "match": float(torch.cat(match).mean()) if match else 0.0,
    }


def _split(prompts: int) -> list[int]:
    return [min(AT_ONCE, prompts - start) for start in range(0, prompts, AT_ONCE)]


def _reference(task: ContinuousTask, drawn: Batch) -> Tensor:
    if isinstance(task, ManyOutliers):
        return task.excess(clean_least_squares(drawn), drawn)
    if isinstance(task, SparseParity):
        # Averaged over the hidden parity: far less noise than scoring predictions.
        return 1 - parity_bayes_accuracy(drawn.info["x"], task.k)
    known = task.optimum(drawn)
    return torch.full_like(drawn.weight, torch.nan) if known is None else known


@step(version="1", exclusive=True, label="updates timed")
def seconds_per_step(
    architecture: str,
    depth: int,
    width: int,
    heads: int,
    state: int,
    task: str,
    task_options: dict[str, Any],
    batch: int,
    timing_steps: int,
) -> float:
    """The median time of a training update: CPU seconds on a CPU, wall seconds on an accelerator."""
    chosen = make_task(task, **task_options)
    learner = build(architecture, depth, width, heads, state, chosen, seed=0).to(current().device)
    return seconds_per_update(learner, chosen, updates=timing_steps, batch=batch, lr=1e-4)
