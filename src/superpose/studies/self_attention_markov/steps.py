"""Random layers, coverage, sample complexity and gradient descent: pure functions of plain data."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from superpose.experiment import current, step, track, tracked
from superpose.models import OneLayerAttention
from superpose.studies.self_attention_markov.config import PROMPT_LENGTH, TEACHER_CONCENTRATION
from superpose.tasks import draw_next, uniform_prompts
from superpose.theory import (
    ContextConditionedMarkovChain,
    attention_transitions,
    attention_weight,
    count_information,
    count_log_likelihood,
    expected_excess_loss,
    fit_count_logits,
    position_weights,
    project_weight,
    prompt_counts,
    prompt_coverage,
    uniform_prompt_excess_loss,
)
from superpose.training import Optimiser, optimise

RANK = 1e-10  # an eigenvalue below is rounding; all blocks together have a trace of at most 1
GENTLE = 0.99  # of the largest stable step


def dirichlet_chain(tokens: int, concentration: float, generator: torch.Generator) -> Tensor:
    """Draw a transition matrix with independent Dirichlet rows."""
    shape = torch.full((tokens, tokens), concentration, dtype=torch.float64)
    gammas = torch._standard_gamma(shape, generator=generator)  # pyright: ignore[reportPrivateImportUsage]
    return gammas / gammas.sum(1, keepdim=True)


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers in float64."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@step(version="1", label="random layers")
def identities(tokens: int, width: int, prompts: int, length: int, seed: int) -> dict[str, float]:
    """The largest differences of a random layer, its weights and its positions from what the formulas say."""
    g = torch.Generator().manual_seed(seed)
    embeddings = normal(tokens, width, generator=g)
    chain = ContextConditionedMarkovChain(dirichlet_chain(tokens, 1.0, g))
    weight, _ = chain.to_attention(embeddings)
    free = normal(width, width, generator=g)
    rows = [uniform_prompts(1, 1 + i % length, tokens, g)[0] for i in range(prompts)]
    ids, mask = _padded(rows)
    wanted = chain.next_token_probs([row.tolist() for row in rows])
    found = {"torch": _scaled_dot_product(embeddings, weight, rows), "float64": _layer(embeddings, weight)(ids, mask)}
    for dtype in (torch.float32, torch.bfloat16):
        found[str(dtype).removeprefix("torch.")] = _layer(embeddings, weight).to(dtype)(ids, mask).double()
    outcome = {name: float((p.detach() - wanted).abs().max()) for name, p in found.items()}
    outcome["chain"] = float((attention_transitions(weight, embeddings) - chain.transitions_).abs().max())
    projected = project_weight(free, embeddings)
    back = attention_weight(attention_transitions(free, embeddings), embeddings)
    outcome["weight"] = float((back - projected).abs().max())
    outcome["outside"] = float((project_weight(weight, embeddings) - weight).abs().max())
    jacobian = torch.autograd.functional.jacobian(lambda w: attention_transitions(w, embeddings).log(), free)
    assert isinstance(jacobian, Tensor)
    rank = int(torch.linalg.matrix_rank(jacobian.reshape(tokens**2, -1)))
    outcome["wrong_rank"] = float(rank != tokens * (tokens - 1))
    return outcome | _positions(embeddings, weight, chain, prompts, length, g)


def _positions(
    embeddings: Tensor,
    weight: Tensor,
    chain: ContextConditionedMarkovChain,
    prompts: int,
    length: int,
    g: torch.Generator,
) -> dict[str, float]:
    places = normal(length, embeddings.shape[1], generator=g)
    ids = uniform_prompts(prompts, length, len(embeddings), g)
    order = torch.rand(prompts, length - 1, generator=g).argsort(1)
    shuffled = torch.cat([ids[:, :-1].gather(1, order), ids[:, -1:]], 1)
    moved = (ids != shuffled).any(1)
    plain, placed = _layer(embeddings, weight), _layer(embeddings, weight, places)
    weights = position_weights(ids, weight, embeddings, places) * chain.transitions_[ids[:, -1]]
    wanted = weights / weights.sum(1, keepdim=True)
    with torch.no_grad():
        changes = (placed(ids) - placed(shuffled)).abs().amax(1)[moved]
        return {
            "positions": float((placed(ids) - wanted).abs().max()),
            "shuffled_plain": float((plain(ids) - plain(shuffled)).abs().max()),
            "shuffled_placed": float(changes.min()),
        }


def _layer(embeddings: Tensor, weight: Tensor, places: Tensor | None = None) -> OneLayerAttention:
    layer = OneLayerAttention(embeddings, positions=places)
    with torch.no_grad():
        layer.weight.copy_(weight)
    return layer


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-1)
    return ids, ids >= 0


def _scaled_dot_product(embeddings: Tensor, weight: Tensor, rows: Sequence[Tensor]) -> Tensor:
    """The same layer by torch's own attention, one prompt at a time."""
    inverse = torch.linalg.pinv(embeddings)
    outputs = []
    for row in rows:
        x = embeddings[row]
        query = (weight @ x[-1])[None, None, None]
        read = functional.scaled_dot_product_attention(query, x[None, None], x[None, None], scale=1.0)
        outputs.append(read[0, 0, 0] @ inverse)
    return torch.stack(outputs)


@step(version="2", label="ranks and components")
def ranks(tokens: int, supports: int, seed: int) -> dict[str, int]:
    """Compare the rank of every block of the Hessian with the number of connected groups.

    Half of the random sets of prompts count the query as a token of its prompt, half do not.

    Returns:
        Sets in which all blocks agree, out of ``sets``, and how many blocks of all were ``connected``.
    """
    g = torch.Generator().manual_seed(seed)
    agree = connected = 0
    for index in track(range(supports), "supports"):
        count = int(torch.randint(tokens, 4 * tokens * tokens, (1,), generator=g))
        longest = int(torch.randint(1, tokens + 1, (1,), generator=g))
        rows = [
            uniform_prompts(1, 1 + int(torch.randint(longest, (1,), generator=g)), tokens, g)[0].tolist()
            for _ in range(count)
        ]
        queries = torch.randint(tokens, (count,), generator=g) if index % 2 else None
        counts, last = prompt_counts(rows, tokens, queries)
        blocks = count_information(normal(tokens, tokens, generator=g), counts, last)
        values = torch.linalg.eigvalsh(blocks)
        found = (values > RANK).sum(1).tolist()
        report = prompt_coverage(counts > 0, last)
        agree += found == list(report.ranks)
        connected += tokens - len(report.unidentified)
    return {"agree": agree, "sets": supports, "connected": connected}


@step(version="2", label="learning with and without coverage")
def covered_learning(tokens: int, samples: Sequence[int], seed: int) -> dict[str, np.ndarray]:
    """Learn a chain from prompts in which half of the last tokens meet only half of the others.

    Returns:
        Mean squared errors of logits, per number of samples: of ``covered`` rows; of ``uncovered`` rows; and of those
        ``within`` groups, after the best constant of each group.
    """
    g = torch.Generator().manual_seed(seed)
    truth = dirichlet_chain(tokens, TEACHER_CONCENTRATION, g)
    poor = torch.randperm(tokens, generator=g)[: tokens // 2].tolist()
    allowed = torch.ones(tokens, tokens, dtype=torch.bool)
    for k in poor:
        others = [j for j in torch.randperm(tokens, generator=g).tolist() if j != k][: tokens // 2]
        allowed[k, others] = False
    last = torch.randint(tokens, (max(samples),), generator=g)
    fill = torch.multinomial(allowed[last].double(), PROMPT_LENGTH - 1, replacement=True, generator=g)
    counts, last = prompt_counts(torch.cat([fill, last[:, None]], 1), tokens)
    targets = draw_next(truth, counts, last, g)
    logs = truth.log().mT
    found: dict[str, list[float]] = {"covered": [], "uncovered": [], "within": []}
    for n in samples:
        report = prompt_coverage(counts[:n] > 0, last[:n])
        fitted = fit_count_logits(counts[:n], last[:n], targets[:n], tokens)
        off = (fitted - logs).mT
        off = off - off.mean(1, keepdim=True)
        rich = [k for k in range(tokens) if k not in poor]
        found["covered"].append(float(off[rich].square().mean()))
        found["uncovered"].append(float(off[poor].square().mean()))
        inside = off.clone()
        for k in poor:
            for group in report.components[k]:
                inside[k, list(group)] -= inside[k, list(group)].mean()
        found["within"].append(float(inside[poor].square().mean()))
    return {name: np.array(values) for name, values in found.items()}


@step(version="2", label="sample complexity")
def sample_complexity(
    tokens: int, width: int, samples: Sequence[int], teachers: int, seed: int
) -> dict[str, np.ndarray]:
    """Learn random chains from growing numbers of uniform prompts, by plain maximum likelihood.

    Returns:
        ``[teachers, samples]``: the ``excess`` loss over ``K (K - 1) / (2 n)``, and the squared error of the
        ``weights`` of an attention layer with random embeddings.
    """
    excess, weights = np.empty((teachers, len(samples))), np.empty((teachers, len(samples)))
    for teacher in track(range(teachers), f"K = {tokens}"):
        g = torch.Generator().manual_seed(seed + teacher)
        truth = dirichlet_chain(tokens, TEACHER_CONCENTRATION, g)
        embeddings = normal(tokens, width, generator=g)
        right = attention_weight(truth, embeddings)
        counts, last = prompt_counts(uniform_prompts(max(samples), PROMPT_LENGTH, tokens, g), tokens)
        targets = draw_next(truth, counts, last, g)
        logs = truth.log().mT.contiguous()
        for column, n in enumerate(samples):
            fitted = fit_count_logits(counts[:n], last[:n], targets[:n], tokens)
            loss = uniform_prompt_excess_loss(logs, fitted, PROMPT_LENGTH)
            excess[teacher, column] = loss / expected_excess_loss(tokens, n)
            learned = attention_weight(fitted.softmax(0).mT, embeddings)
            weights[teacher, column] = float((learned - right).square().sum())
    return {"excess": excess, "weights": weights}


@step(version="2", label="gradient descent on attention")
def gradient_descent(tokens: int, width: int, samples: int, steps: int, seeds: int) -> dict[str, np.ndarray]:
    """Train attention layers from zero weights by full-batch gradient descent, all seeds side by side.

    Each layer's step is just below 2 over the largest curvature there can be, read off its data.

    Returns:
        ``losses`` above the maximum-likelihood chain's, ``[seeds, updates]``, and the largest differences of
        ``probabilities`` of the base chains, ``[seeds]``.
    """
    embeddings, ids, targets, best, chains, rates = [], [], [], [], [], []
    for seed in range(seeds):
        g = torch.Generator().manual_seed(seed)
        e, truth = normal(tokens, width, generator=g), dirichlet_chain(tokens, TEACHER_CONCENTRATION, g)
        prompts = uniform_prompts(samples, PROMPT_LENGTH, tokens, g)
        counts, last = prompt_counts(prompts, tokens)
        drawn = draw_next(truth, counts, last, g)
        fitted = fit_count_logits(counts, last, drawn, tokens)
        embeddings.append(e)
        ids.append(prompts)
        targets.append(drawn)
        chains.append(fitted.softmax(0).mT)
        best.append(float(-count_log_likelihood(fitted, counts, last, drawn)))
        rates.append(GENTLE * 2 / _largest_curvature(e, counts, last))
    layer = OneLayerAttention(torch.stack(embeddings))
    batch, wanted = torch.stack(ids), torch.stack(targets)
    shares, floor = torch.tensor(rates, dtype=torch.float64), torch.tensor(best, dtype=torch.float64)

    def loss(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        each = -layer(batch).gather(-1, wanted.unsqueeze(-1)).squeeze(-1).log().mean(-1)
        # A layer's own rate as the weight of its loss: no operation mixes the layers.
        return (shares * each).sum(), {f"seed {i}": value for i, value in enumerate(each)}

    with tracked(steps, "updates") as move:
        history = optimise(
            loss,
            layer.parameters(),
            lambda at: at,
            steps=steps,
            optimiser=Optimiser("sgd", lr=1.0),
            checkpoint=current().folder / "training",
            progress=move,
        )
    learned = attention_transitions(layer.weight.detach(), layer.embeddings)
    gaps = (learned - torch.stack(chains)).abs().amax((1, 2))
    with torch.no_grad():
        final = -layer(batch).gather(-1, wanted.unsqueeze(-1)).squeeze(-1).log().mean(-1)
    logged = np.stack([np.asarray(history.logged[f"seed {i}"], dtype=float) for i in range(seeds)])
    return {
        "losses": np.concatenate([logged, final[:, None].numpy()], 1) - floor[:, None].numpy(),
        "probabilities": gaps.numpy(),
    }


def _largest_curvature(embeddings: Tensor, counts: Tensor, last: Tensor) -> float:
    """A bound on the loss's curvature in W: tokens of a prompt vary by at most a quarter of their squared diameter."""
    distances = torch.cdist(embeddings, embeddings).square()
    held = (counts > 0).double()
    spread = (held[:, :, None] * held[:, None] * distances).amax((1, 2)) / 4
    shares = torch.bincount(last, minlength=len(embeddings)) / len(last)
    # Queries share directions, so their parts add up.
    queries = embeddings.mT @ torch.diag(shares.double()) @ embeddings
    return float(spread.max() * torch.linalg.eigvalsh(queries)[-1])
