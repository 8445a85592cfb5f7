"""Distillation: a student trained on what a teacher says.

distill(student, teacher, images, steps=1000)  # plain soft labels, as in arXiv 2410.18837

class Distiller(SoftLabelTrainerMixin, transformers.Trainer): ...
Distiller(model=student, teacher=teacher, args=args, train_dataset=data).train()
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from superpose.errors import InputError, choose

from .episodes import at_least_one, device_of, mode
from .history import History
from .optimise import optimise
from .optimisers import Optimiser
from .randomness import seeded
from .schedules import Schedule

LABELS = ("soft", "hard", "values")
IGNORED = -100  # transformers' label of a position that is not scored
_AT_ONCE = 512  # inputs per pass of the teacher over a pool


def distillation_loss(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "..."],
    labels: str = "soft",
    temperature: float = 1.0,
    scored: Bool[Tensor, "*batch"] | None = None,
) -> Float[Tensor, ""]:
    """Return the mean distance of a student's outputs from a teacher's.

    Args:
        student: logits, or values.
        teacher: the same of the teacher; no gradient reaches it.
        labels: "soft": Kullback-Leibler divergence from the teacher's probabilities, 0 for equal outputs; "hard":
            cross entropy of the teacher's likeliest class; "values": squared error, for regression.
        temperature: divides both logits, and its square multiplies the loss so that gradients keep their size; 1, as in
            the paper. For soft labels only.
        scored: which outputs count; default all.

    Raises:
        InputError: unknown labels, shapes that differ, a temperature not above 0, or one for other labels than soft.
    """
    choose("labels", labels, LABELS)
    _check_temperature(temperature, labels)
    if student.shape != teacher.shape:
        raise InputError(f"teacher has outputs {tuple(teacher.shape)}; allowed: {tuple(student.shape)}, as the student")
    target = teacher.detach()
    if labels == "soft":
        # float32 at least: sums of probabilities in bfloat16 are off by percents.
        log_student = (student.float() / temperature).log_softmax(-1)
        log_teacher = (target.float() / temperature).log_softmax(-1)
        distance = temperature**2 * F.kl_div(log_student, log_teacher, log_target=True, reduction="none").sum(-1)
    elif labels == "hard":
        flat = F.cross_entropy(student.float().flatten(0, -2), target.argmax(-1).flatten(), reduction="none")
        distance = flat.view(student.shape[:-1])
    else:
        distance = (student - target.to(student)).square().mean(-1)
    if scored is None:
        return distance.mean()
    weight = scored.to(distance)
    # A batch without anything to score has loss 0, not NaN.
    return (distance * weight).sum() / weight.sum().clamp_min(1)


def shuffled_batches(count: int, batch: int, seed: int) -> Callable[[int], Int[Tensor, " batch"]]:
    """Return a function of the step to the indices of its batch: every epoch in an order of its own.

    It is a pure function, as :func:`superpose.training.optimise` needs to resume exactly; the last batch of an epoch
    may be smaller.

    Args:
        count: examples.
        batch: examples per step.
        seed: of the orders.
    """
    per_epoch = -(-at_least_one("count", count) // at_least_one("batch", batch))

    def indices(step: int) -> Tensor:
        epoch, at = divmod(step, per_epoch)
        return torch.randperm(count, generator=seeded(seed, "epoch", epoch))[at * batch : (at + 1) * batch]

    return indices


def distill(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Tensor | Callable[[int], Any],
    *,
    steps: int,
    labels: str = "soft",
    temperature: float = 1.0,
    batch: int = 64,
    seed: int = 0,
    optimiser: Optimiser | None = None,
    schedule: Schedule | None = None,
    clip: int | float | None = None,
    precision: str = "float32",
    checkpoint: Path | str | None = None,
    checkpoint_every: int = 500,
    on_step: Callable[[int], object] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> History:
    """Train a student, in place, on a teacher's outputs.

    Args:
        student: maps inputs to outputs ``[..., classes]``, as a tensor or under ``.logits``; its parameters that
            require a gradient are trained.
        teacher: the same shape of outputs; evaluated without gradient and in evaluation mode. On its own device.
        inputs: a pool, ``[examples, ...]``, which the teacher labels once; or a function of the step to a batch (a
            tensor, or keyword arguments of both models), which must be pure for a resumed run to be exact.
        steps: updates.
        labels, temperature: as in :func:`distillation_loss`.
        batch: examples per update from a pool.
        seed: of their order, and of dropout.
        optimiser, schedule, clip, precision, checkpoint, checkpoint_every, on_step, progress: as in
            :func:`superpose.training.optimise`.

    Raises:
        InputError: student and teacher are one, an empty pool, outputs of different shape, or wrong settings.
        TrainingDiverged: as :func:`superpose.training.optimise`.
    """
    choose("labels", labels, LABELS)
    _check_temperature(temperature, labels)
    if student is teacher:
        raise InputError("teacher is the student itself; allowed: another model (copy.deepcopy keeps the present one)")
    device = device_of(student)
    if isinstance(inputs, Tensor):
        if not inputs.ndim or not len(inputs):
            raise InputError(f"inputs has shape {tuple(inputs.shape)}; allowed: [examples, ...] with at least one")
        pool, chosen = inputs.to(device), shuffled_batches(len(inputs), batch, seed)
        said = torch.cat([_said(teacher, part) for part in inputs.split(_AT_ONCE)]).to(device)

        def batches(step: int) -> tuple[Any, Tensor]:
            picked = chosen(step).to(device)
            return pool[picked], said[picked]
    elif callable(inputs):
        drawn = inputs

        def batches(step: int) -> tuple[Any, Tensor]:
            given = drawn(step)
            return _moved(given, device), _said(teacher, given).to(device)
    else:
        raise InputError(
            f"inputs is a {type(inputs).__name__}; allowed: a tensor of examples, or a function of the step to a batch"
        )

    def loss(pair: tuple[Any, Tensor]) -> Tensor:
        given, wanted = pair
        return distillation_loss(_outputs(student, given), wanted, labels, temperature)

    with mode(student, training=True):
        return optimise(
            loss,
            [p for p in student.parameters() if p.requires_grad],
            batches,
            steps=steps,
            optimiser=optimiser,
            schedule=schedule,
            clip=clip,
            precision=precision,
            seed=seed,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            identity={"distillation": [labels, temperature, batch if isinstance(inputs, Tensor) else None]},
            on_step=on_step,
            progress=progress,
        )


class SoftLabelTrainerMixin:
    """Makes a ``transformers.Trainer`` train on a teacher's outputs: ``class T(SoftLabelTrainerMixin, Trainer)``.

    A batch's ``labels`` are kept from both models. They only say which positions count, where they have the logits'
    shape without the classes: those whose label is not -100; without them, those under ``attention_mask``, if it has
    that shape.

    Args:
        teacher: a model with the student's outputs; None: batches carry ``teacher_logits`` (with
            ``remove_unused_columns=False`` in the trainer's arguments).
        distill_labels: "soft", "hard" or "values", as in :func:`distillation_loss`.
        temperature: as there.
        causal: labels are the inputs' own tokens, one position late (causal language models).

    Raises:
        InputError: wrong settings, or at the first batch neither a teacher nor ``teacher_logits``.
    """

    # A mean over the batch: the trainer divides it by the number of accumulated batches.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        *args: Any,
        teacher: nn.Module | None = None,
        distill_labels: str = "soft",
        temperature: float = 1.0,
        causal: bool = False,
        **kwargs: Any,
    ) -> None:
        choose("distill_labels", distill_labels, LABELS)
        _check_temperature(temperature, distill_labels)
        self.teacher, self.distill_labels, self.temperature, self.causal = teacher, distill_labels, temperature, causal
        super().__init__(*args, **kwargs)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The distance of the model's outputs from the teacher's; the trainer's own hook."""
        given = {k: v for k, v in inputs.items() if k not in ("labels", "teacher_logits")}
        if "teacher_logits" in inputs:
            wanted = inputs["teacher_logits"]
        elif self.teacher is not None:
            wanted = _said(self.teacher, given)
        else:
            raise InputError("teacher is None and the batch holds no teacher_logits; allowed: one of the two")
        outputs = model(**given)
        logits = _logits(outputs)
        wanted = wanted.to(logits.device)
        scored = self._scored(inputs, logits)
        if self.causal:
            logits, wanted = logits[:, :-1], wanted[:, :-1]
        loss = distillation_loss(logits, wanted, self.distill_labels, self.temperature, scored)
        # Of anything but a dictionary the trainer would drop the first entry, taking it for the loss.
        return (loss, outputs if isinstance(outputs, dict) else {"logits": outputs}) if return_outputs else loss

    def _scored(self, inputs: Mapping[str, Any], logits: Tensor) -> Tensor | None:
        labels, mask = inputs.get("labels"), inputs.get("attention_mask")
        if labels is not None and labels.shape == logits.shape[:-1] and labels.ndim > 1:
            scored = labels != IGNORED
        elif mask is not None and mask.shape == logits.shape[:-1]:
            scored = mask.bool()
        else:
            return None
        # Position t is scored by whether the token it predicts counts.
        return scored[:, 1:] if self.causal else scored


def _said(teacher: nn.Module, given: Any) -> Tensor:
    """The teacher's outputs, on its device."""
    with _evaluating(teacher), torch.no_grad():
        return _outputs(teacher, _moved(given, device_of(teacher)))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    if model.training:
        with mode(model, training=False):
            yield
    else:
        yield


def _outputs(model: nn.Module, given: Any) -> Tensor:
    return _logits(model(**given) if isinstance(given, Mapping) else model(given))


def _logits(outputs: Any) -> Tensor:
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor):
        raise InputError(f"a model returned a {type(outputs).__name__}; allowed: a tensor, or an object with .logits")
    return logits


def _moved(given: Any, device: torch.device) -> Any:
    if isinstance(given, Mapping):
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in given.items()}
    return given.to(device)


def _check_temperature(temperature: float, labels: str) -> None:
    if not 0 < temperature < float("inf"):
        raise InputError(f"temperature is {temperature}; allowed: finite numbers above 0")
    if labels != "soft" and temperature != 1:
        raise InputError(f"temperature is {temperature} with {labels!r} labels; allowed there: 1")
