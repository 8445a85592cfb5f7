"""What can be read off a model's states: probes for the least-squares weights and for the first-order moment."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from superpose.models import ContinuousLearner
from superpose.tasks import Batch, ContinuousTask
from superpose.theory import least_squares
from superpose.training import Optimiser, Schedule, optimise, seeded

HIDDEN = 64  # units of a probe, as in the paper's code
# The paper trains on 1280 fresh prompts per update at 1e-3; here a fixed set is gone through, with the rate decaying.
RATE, WHERE_RATE, BATCH = 5e-3, 5e-2, 256
STATES_AT_ONCE = 128


def states(learner: ContinuousLearner, inputs: Float[Tensor, "batch pos dim"]) -> Float[Tensor, "pass batch pos width"]:
    """The embedded prompt, and the stream after every loop, or after every layer of a model that does not loop."""
    embedded = learner.read_in(inputs)
    if learner.spec.loops > 1:
        return torch.cat([embedded[None], learner.backbone(embedded, return_all=True)])
    after: list[Tensor] = []
    # A layer is an attention and an MLP block.
    handles = [
        block.register_forward_hook(lambda module, given, out: after.append(out[0]))
        for block in learner.backbone.blocks[1::2]
    ]
    try:
        learner.backbone(embedded)
    finally:
        for handle in handles:
            handle.remove()
    return torch.stack([embedded, *after])


def targets(drawn: Batch) -> dict[str, Float[Tensor, "batch dim"]]:
    """What the probes are to find: the least-squares weights of a prompt's pairs, and the mean of their ``y x``."""
    x, y = drawn.info["x"], drawn.info["y"]
    return {"w-ols": least_squares(x, y), "moment": torch.einsum("bpd,bp->bd", x, y) / x.shape[1]}


def probe_errors(
    learner: ContinuousLearner, task: ContinuousTask, *, prompts: int, steps: int, seed: int
) -> dict[str, Float[Tensor, "half pass"]]:
    """Errors of probes on the states of a frozen model, as shares of the target's variance.

    Each pass (the embedded prompt, then every loop or layer) and target has its own probe: a softmax over positions,
    learned, whose weighted sum of states goes through a two-layer perceptron.

    Args:
        learner: trained on the task.
        task: linear regression.
        prompts: to train the probes on, and as many to read them off.
        steps: updates of the probes.
        seed: of prompts and probes.

    Returns:
        By target, errors on either half of the second prompts: one half can choose a pass, the other report it.
    """
    device = next(learner.parameters()).device
    learner.eval()
    seen = task.sample(prompts, seeded(seed, "probes"))
    fresh = task.sample(prompts, seeded(seed, "read probes"))
    with torch.no_grad():
        given, unseen = (_all_states(learner, one, device) for one in (seen, fresh))
    # Streams grow from layer to layer; a probe must not pay for their scale.
    mean, spread = given.mean((1, 2), keepdim=True), given.std((1, 2), keepdim=True).clamp_min(1e-6)
    given, unseen = (given - mean) / spread, (unseen - mean) / spread
    wanted = {name: value.to(device) for name, value in targets(seen).items()}
    true = {name: value.to(device) for name, value in targets(fresh).items()}
    out = {}
    for name, target in wanted.items():
        centre, scale = target.mean(0), target.std()
        probes = _train(given, (target - centre) / scale, steps, seed)
        with torch.no_grad():
            misses = (_read(probes, unseen) - (true[name] - centre) / scale).square().mean(-1)
        halves = torch.stack([misses[:, 0::2].mean(1), misses[:, 1::2].mean(1)])
        out[name] = halves.cpu()
    return out


def _all_states(learner: ContinuousLearner, drawn: Batch, device: torch.device) -> Tensor:
    return torch.cat([states(learner, part.to(device)) for part in drawn.inputs.split(STATES_AT_ONCE)], dim=1)


def _train(given: Tensor, target: Tensor, steps: int, seed: int) -> dict[str, Tensor]:
    passes, prompts, positions, width = given.shape
    generator = seeded(seed, "probe weights")

    def weights(*shape: int) -> Tensor:
        # The same for every pass, so that probes differ by the states alone.
        drawn = (torch.randn(shape, generator=generator) / shape[0] ** 0.5).expand(passes, *shape)
        return drawn.clone().to(given.device).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(passes, *shape, device=given.device, requires_grad=True)

    probes = {
        "where": zeros(positions),
        "first": weights(width, HIDDEN),
        "first bias": zeros(1, HIDDEN),
        "second": weights(HIDDEN, target.shape[1]),
        "second bias": zeros(1, target.shape[1]),
    }

    def batches(index: int) -> Tensor:
        return torch.randint(prompts, (BATCH,), generator=seeded(seed, "probe batches", index)).to(given.device)

    def loss(chosen: Tensor) -> Tensor:
        read = _read(probes, given[:, chosen])
        # Summed over passes, so that each probe learns as it would alone.
        return mse_loss(read, target[chosen].expand_as(read)) * passes

    optimise(
        loss,
        # A softmax needs its logits to move by several units before it settles on a position.
        [{"params": list(probes.values())[1:]}, {"params": [probes["where"]], "lr": WHERE_RATE}],
        batches,
        steps=steps,
        optimiser=Optimiser("adam", lr=RATE),
        schedule=Schedule("cosine"),
        seed=seed,
    )
    return probes


def _read(probes: dict[str, Tensor], given: Float[Tensor, "pass batch pos width"]) -> Float[Tensor, "pass batch dim"]:
    pooled = torch.einsum("al,anlw->anw", probes["where"].softmax(-1), given)
    hidden = torch.relu(torch.baddbmm(probes["first bias"], pooled, probes["first"]))
    return torch.baddbmm(probes["second bias"], hidden, probes["second"])
