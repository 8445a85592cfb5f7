"""Small decoders trained from scratch on one task per sequence, and what they do with mixtures (TS2, TS6)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from superpose.experiment import current, step
from superpose.models import BackboneSpec, TokenLearner
from superpose.tasks import task as make_task
from superpose.tasks.lines import RetrieveLetters
from superpose.training import Optimiser, Schedule, optimise, seeded

# What made models of this size learn within minutes: embeddings of the slot and the line, larger at the start than
# GPT-2's, and for part of the sequences a first token that names the hidden task, which becomes rare as soon as it is
# understood. Evaluation never shows that token. Without any one of these the models stay at chance for 2300 updates.
HINT_FIRST, HINT_LATER, HINT_UNTIL = 0.5, 0.15, 0.2
EMBEDDING_STD = 0.5
LAYERS, HEADS = 3, 4
OPTIMISER = Optimiser("adamw", lr=2e-3, betas=(0.9, 0.98))
WARMUP, DECAY = 100, 0.3
CLIP = 1.0
PAIR = (0, 2)  # the two tasks that TS2 mixes


@step(version="2", label="models trained from scratch")
def trained(
    width: int, seed: int, train_steps: int, batch: int, prompts: int, weights: Sequence[float]
) -> dict[str, Any]:
    """Train one decoder on one retrieval task per sequence; score mixtures of two of the tasks.

    Returns:
        ``logprob`` of each task's answer and newline after prompts of nine demonstrations, ``[weights, prompts,
        tasks]``, where the task of every demonstration is drawn independently; ``first_logprob``, of the answer
        alone; ``second``, ``[weights, prompts]``, the second largest log-probability of a first token; ``accuracy``
        on single-task prompts; the final ``loss``; ``parameters``.
    """
    device = torch.device(current().device)
    lines = make_task("retrieve-letters", hint=HINT_FIRST)
    if not isinstance(lines, RetrieveLetters):
        raise TypeError(f"the task 'retrieve-letters' is a {type(lines).__name__}")
    spec = BackboneSpec(
        name="decoder",
        layout=("attention", "mlp") * LAYERS,
        width=width,
        heads=HEADS,
        positions="none",  # slot and line embeddings take their place
        init="torch",
    )
    learner = TokenLearner(spec, lines.vocab, line_length=lines.line_length, lead=lines.lead, seed=seed)
    generator = seeded(seed, "embeddings")
    for table in (learner.embedding, learner.slots, learner.lines):
        torch.nn.init.normal_(table.weight, std=EMBEDDING_STD, generator=generator)
    learner.to(device)

    def batches(index: int) -> Any:
        hint = HINT_FIRST if index < HINT_UNTIL * train_steps else HINT_LATER
        return replace(lines, hint=hint).sample(batch, seeded(seed, "train", index)).to(device)

    def loss(drawn: Any) -> torch.Tensor:
        return lines.loss(learner(drawn.inputs, reads=drawn.reads), drawn)

    history = optimise(
        loss,
        learner.parameters(),
        batches,
        steps=train_steps,
        optimiser=OPTIMISER,
        schedule=Schedule("wsd", warmup=min(WARMUP, train_steps // 10), decay=DECAY),
        clip=CLIP,
        seed=seed,
        checkpoint=current().folder / "training",
        identity={"width": width},
    )
    learner.eval()
    alone = replace(lines, hint=0.0).sample(prompts, seeded(seed, "alone")).to(device)
    with torch.inference_mode():
        right = learner(alone.inputs, reads=alone.reads[-2:-1])[:, 0].argmax(-1) == alone.targets[:, -2]
        scored = [_mixture(learner, lines, w, prompts, seed) for w in weights]
    return {
        **{name: torch.stack([one[name] for one in scored]).cpu().numpy() for name in scored[0]},
        "accuracy": float(right.double().mean()),
        "loss": float(history.losses[-1]),
        "parameters": sum(p.numel() for p in learner.parameters()),
    }


def _mixture(
    learner: TokenLearner, lines: RetrieveLetters, weight: float, prompts: int, seed: int
) -> dict[str, torch.Tensor]:
    proportions = [0.0] * lines.tasks
    proportions[PAIR[0]], proportions[PAIR[1]] = weight, 1 - weight
    device = next(learner.parameters()).device
    # One stream for every weight, so that mixtures share their letters.
    drawn = lines.mixture(prompts, seeded(seed, "mixture"), proportions).to(device)
    answers = drawn.info["answers"][:, -1]  # [prompts, tasks]
    separator = int(drawn.reads[-2])  # of the query line; the answer stands behind it
    first = learner(drawn.inputs[:, : separator + 1], reads=drawn.reads[-2:-1])[:, 0].log_softmax(-1)
    ends = torch.empty(prompts, lines.tasks, device=device)
    for k in range(lines.tasks):
        ids = torch.cat([drawn.inputs[:, : separator + 1], answers[:, k : k + 1]], dim=1)
        ends[:, k] = learner(ids, reads=drawn.reads[-1:])[:, 0].log_softmax(-1)[:, lines.newline]
    begun = first.gather(1, answers)
    return {"logprob": begun + ends, "first_logprob": begun, "second": first.topk(2, dim=-1).values[:, 1]}
