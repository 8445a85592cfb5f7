"""The one training loop: batches in, parameters changed in place, a history out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from superpose.errors import InputError, choose

from . import checkpoints
from .budget import Budget, Stopwatch
from .history import History, NotFinite, Recorder, TrainingDiverged
from .optimisers import Optimiser
from .schedules import Schedule

PRECISIONS = ("float32", "tf32", "bfloat16")
# Reading a loss from an accelerator waits for it, so there several are read at once.
_UNREAD = 20

Loss = Tensor | tuple[Tensor, Mapping[str, Tensor | float]]


def optimise(
    loss_fn: Callable[[Any], Loss],
    params: Iterable[Tensor] | Iterable[dict[str, Any]],
    batches: Callable[[int], Any],
    *,
    steps: int | None = None,
    seconds: int | float | None = None,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    clip: int | float | None = None,
    clip_each_group: bool = False,
    accumulate: int = 1,
    precision: str = "float32",
    compile: bool | str = False,
    seed: int = 0,
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    identity: Mapping[str, Any] | None = None,
    on_step: Callable[[int], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> History:
    """Minimise a loss by stochastic gradients, in place, within a budget of steps or of seconds.

    Everything that repeats in training stands here once; a model, a task and an objective come in as
    ``loss_fn`` and ``batches``. On a CPU a run of ``steps`` that is killed and started again with the same
    arguments ends with the same bits as one that was not.

    Args:
        loss_fn: a batch to its loss (a scalar), or to (loss, scalars to log under fixed names).
        params: parameters, or torch's parameter groups (dicts with ``params`` and own settings such as ``lr``).
        batches: index of a micro-batch (from 0) to the batch. It must be a pure function of the index, as with
            :func:`superpose.training.seeded`, or resuming is not exact.
        steps: the budget in updates (equal steps).
        seconds: the budget in training time (equal compute): CPU seconds of this process on a CPU, wall seconds
            elsewhere. Exactly one of ``steps`` and ``seconds``.
        optimiser: settings; default AdamW with learning rate 1e-3 and no weight decay.
        schedule: factor on the learning rate over the budget; default constant.
        clip: largest norm of the gradient of all parameters together; default none.
        clip_each_group: clip every parameter group by itself instead.
        accumulate: micro-batches per update; their losses are averaged.
        precision: ``float32``, ``tf32`` (CUDA) or ``bfloat16`` (autocast; parameters stay as they are).
        compile: compile ``loss_fn`` by torch.compile; a string names its backend. It takes up to a minute, and again
            for every size that a curriculum brings (torch gives up after eight, with a warning): for long runs.
        seed: seeds torch's global generator within this call (dropout); it is put back afterwards.
        checkpoint: folder for checkpoints; a run continues from the one it finds there.
        checkpoint_every: steps between two checkpoints; there is one at the end too.
        identity: what must agree for a checkpoint to be continued, beside the parameters' shapes, the
            optimiser, the schedule and the seed: plain data, such as the name of the architecture.
        on_step: called with the number of finished steps after each step; its time is not counted.
        progress: called with (done, total) in the budget's unit after each step.

    Returns:
        The history of all steps, those before a resume included.

    Raises:
        InputError: wrong settings, or a checkpoint of another model or run.
        TrainingDiverged: the loss or a parameter is not finite any more.
    """
    optimiser, schedule = optimiser or Optimiser(), schedule or Schedule()
    budget = Budget(steps, seconds, schedule)
    choose("precision", precision, PRECISIONS)
    for name, value in (("accumulate", accumulate), ("checkpoint_every", checkpoint_every)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be >= 1")
    if clip is not None and not clip > 0:
        raise InputError(f"clip is {clip}; it must be a norm > 0, or None")
    groups = _groups(params)
    run = _Run(groups, optimiser, budget, seed, None if checkpoint is None else Path(checkpoint))
    if precision == "tf32" and run.device.type != "cuda":
        raise InputError(f"precision is 'tf32' on a {run.device.type} device; allowed there: float32, bfloat16")
    run.identity = {
        "parameters": [[list(p.shape), str(p.dtype)] for p in run.parameters],
        "optimiser": asdict(optimiser),
        "learning rates": run.base_lrs,
        "schedule": budget.identity(),
        "clip": [clip, clip_each_group],
        "accumulate": accumulate,
        "precision": precision,
        "seed": seed,
        **(identity or {}),
    }
    if compile:
        loss_fn = torch.compile(loss_fn, backend=compile if isinstance(compile, str) else "inductor")
    clipped = [group["params"] for group in groups] if clip_each_group else [run.parameters]

    with _seeded(seed, run.device), _matmul(precision):
        run.resume()
        while not budget.spent(run.step, run.watch.elapsed):
            with run.watch:
                lr = run.set_lr()
                loss, logged = _backward(loss_fn, batches, run.step, accumulate, _autocast(precision, run.device))
                run.note(loss, logged, lr)
                if clip is not None:
                    for parameters in clipped:
                        torch.nn.utils.clip_grad_norm_(parameters, clip)
                run.torch_optimiser.step()
                run.torch_optimiser.zero_grad(set_to_none=True)
            run.advance()
            if on_step is not None:
                on_step(run.step)
            if progress is not None:
                progress(*budget.progress(run.step, run.watch.elapsed))
            if run.step % checkpoint_every == 0:
                run.save()
        run.save()
    return run.recorder.history()


class _Run:
    """The state of one call: everything a checkpoint has to hold."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        optimiser: Optimiser,
        budget: Budget,
        seed: int,
        folder: Path | None,
    ) -> None:
        self.parameters: list[Tensor] = [p for group in groups for p in group["params"]]
        self.device = self.parameters[0].device
        self.base_lrs = [float(group.get("lr", optimiser.lr)) for group in groups]
        self.torch_optimiser = optimiser.build([dict(group) for group in groups])
        self.budget, self.seed, self.folder = budget, seed, folder
        on_cpu = self.device.type == "cpu"
        self.watch = Stopwatch(cpu=on_cpu)
        self.recorder = Recorder(unread=1 if on_cpu else _UNREAD)
        self.identity: dict[str, Any] = {}
        self.step = 0
        self.saved_step: int | None = None
        self.last_checkpoint: Path | None = None

    def set_lr(self) -> float:
        factor = self.budget.factor(self.step, self.watch.elapsed)
        for group, base in zip(self.torch_optimiser.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        return self.base_lrs[0] * factor

    def note(self, loss: Tensor, logged: dict[str, Tensor], lr: float) -> None:
        try:
            self.recorder.note(loss, logged, lr)
        except NotFinite as error:
            raise self._diverged(error) from error

    def advance(self) -> None:
        self.step += 1
        self.recorder.time(self.watch.elapsed)

    def save(self) -> None:
        """Make sure that everything is finite so far, and write it down if there is a folder."""
        if self.saved_step == self.step:
            return
        with self.watch:
            try:
                self.recorder.read()
            except NotFinite as error:
                raise self._diverged(error) from error
        if not all(bool(torch.isfinite(p).all()) for p in self.parameters):
            raise TrainingDiverged(self.step - 1, self.seed, "a parameter is not finite after it", self.last_checkpoint)
        self.saved_step = self.step
        if self.folder is None:
            return
        tensors = {f"parameter/{i}": p for i, p in enumerate(self.parameters)}
        tensors |= checkpoints.optimiser_tensors(self.torch_optimiser)
        tensors |= self.recorder.tensors()
        tensors["random/cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        state = {"step": self.step, "seconds": self.watch.elapsed, "warm_seconds": self.budget.warm_seconds}
        self.last_checkpoint = checkpoints.save(self.folder, self.identity, state, tensors)

    def resume(self) -> None:
        found = None if self.folder is None else checkpoints.load(self.folder, self.identity)
        if self.folder is None or found is None:
            return
        state, tensors = found
        with torch.no_grad():
            for i, parameter in enumerate(self.parameters):
                parameter.copy_(tensors[f"parameter/{i}"])
        checkpoints.restore_optimiser(self.torch_optimiser, tensors)
        self.recorder.restore(tensors)
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)
        self.step = self.saved_step = int(state["step"])
        self.watch.set(state["seconds"])
        self.budget.warm_seconds = state["warm_seconds"]
        self.last_checkpoint = self.folder / checkpoints.FILE

    def _diverged(self, error: NotFinite) -> TrainingDiverged:
        return TrainingDiverged(error.step, self.seed, str(error), self.last_checkpoint, error.logged)


def _groups(params: Iterable[Tensor] | Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    given: list[Any] = list(params)
    grouped: list[dict[str, Any]] = [g for g in given if isinstance(g, dict)]
    groups = [{**g, "params": list(g["params"])} for g in grouped] if grouped else [{"params": given}]
    if grouped and len(grouped) != len(given):
        raise InputError("params mixes parameters and parameter groups; give one kind")
    if not all(group["params"] for group in groups):
        raise InputError("params is empty, or one of its groups is; give parameters that require a gradient")
    for parameter in (p for group in groups for p in group["params"]):
        if not parameter.requires_grad:
            raise InputError(
                f"params has a tensor of shape {tuple(parameter.shape)} that does not require a gradient;"
                " leave frozen parameters out"
            )
    return groups


def _backward(
    loss_fn: Callable[[Any], Loss],
    batches: Callable[[int], Any],
    step: int,
    accumulate: int,
    autocast: AbstractContextManager[Any],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gradients of one update; the mean loss and the mean of each logged scalar, detached."""
    losses: list[Tensor] = []
    columns: dict[str, list[Tensor]] = {}
    for micro in range(accumulate):
        batch = batches(step * accumulate + micro)
        with autocast:
            out = loss_fn(batch)
        loss, scalars = out if isinstance(out, tuple) else (out, {})
        if loss.ndim:
            raise InputError(f"loss_fn returned a loss of shape {tuple(loss.shape)}; it must be a scalar")
        (loss / accumulate).backward()
        losses.append(loss.detach())
        for name, value in scalars.items():
            columns.setdefault(name, []).append(torch.as_tensor(value).detach().double())
    means = {name: torch.stack(column).mean() for name, column in columns.items()}
    return torch.stack(losses).mean(), means


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextmanager
def _matmul(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
