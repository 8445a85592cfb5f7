"""Real batched generation against the wall clock: the same requests, their batches formed in different ways."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, StoppingCriteria, StoppingCriteriaList

from superpose.experiment import current, step, track
from superpose.inference import MultiBinBatchSampler, TfidfLength, bin_accuracy, lognormal_lengths, quantile_edges
from superpose.studies.multi_bin_batching.prompts import template_prompts

VOCABULARY, PROMPT_TOKENS, BATCH = 2000, 16, 8
LEARNED_FROM = 0.7  # share of the prompts


class _RowStops(StoppingCriteria):
    """Ends each row at its own length, as an end-of-sequence token would; its place in the batch stays taken."""

    def __init__(self, ends: torch.Tensor) -> None:
        self._ends = ends

    # generate passes no scores where nobody asked for them, whatever the base class says.
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor | None, **_: Any) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return input_ids.shape[1] >= self._ends


@step(version="1", exclusive=True, label="serving with an oracle")
def served_oracle(
    repeat: int, requests: int, bins: Sequence[int], layers: int, width: int, median: float, cap: int
) -> dict[str, Any]:
    """Seconds, decoding steps and waste of serving the same requests in batches from ``bins`` bins.

    The requests are the same in all repeats; the model's weights are random, and what it says does not matter.

    Returns:
        Per arm (number of bins): ``seconds``, ``steps`` (of all batches), ``waste``; and ``sorted_steps``: of
        batches formed from all requests sorted by length, the best that offline batching can do.
    """
    lengths = lognormal_lengths(requests, np.random.default_rng(11), median=median, cap=cap)
    arms = [list(MultiBinBatchSampler(lengths, BATCH, k)) for k in bins]
    order = np.argsort(lengths, kind="stable")
    best = sum(lengths[order[first : first + BATCH]].max() for first in range(0, requests, BATCH))
    return {**_serve(arms, lengths, layers, width, repeat), "sorted_steps": int(best)}


@step(version="1", exclusive=True, label="serving with a predictor")
def served_predictor(
    repeat: int, requests: int, bins: int, layers: int, width: int, median: float, cap: int, prompts: int
) -> dict[str, Any]:
    """The same for three arms: no bins, bins by a learned predictor, bins by the true lengths.

    The predictor learns from 70 % of the prompts; the requests are drawn from the others.

    Returns:
        As :func:`served_oracle`; ``right`` and ``near``: shares of the requests in the right bin and within one of it.
    """
    texts, lengths = template_prompts(prompts, median, cap, np.random.default_rng(12))
    learned = int(LEARNED_FROM * prompts)
    predictor = TfidfLength().fit(texts[:learned], lengths[:learned])
    asked = np.random.default_rng(13).integers(learned, prompts, requests)
    truth, guess = lengths[asked], predictor.predict([texts[i] for i in asked])
    edges = quantile_edges(lengths[:learned], bins)
    _, right, near = bin_accuracy(guess, truth, edges)
    arms = [list(MultiBinBatchSampler(truth, BATCH, 1))]
    arms += [list(MultiBinBatchSampler(each, BATCH, edges=edges)) for each in (guess, truth)]
    return {**_serve(arms, truth, layers, width, repeat), "right": right, "near": near}


def _serve(
    arms: Sequence[Sequence[list[int]]], lengths: np.ndarray, layers: int, width: int, repeat: int
) -> dict[str, list[float]]:
    device = torch.device(current().device)
    model = _random_llama(layers, width, int(lengths.max())).to(device)
    prompts = torch.randint(1, VOCABULARY, (len(lengths), PROMPT_TOKENS), generator=torch.Generator().manual_seed(0))
    stops = torch.tensor(lengths, dtype=torch.long)
    seconds, steps = np.zeros(len(arms)), np.zeros(len(arms))
    _generate(model, prompts[:BATCH].to(device), stops[:BATCH].clamp(max=16).to(device))  # warm-up
    turns = list(_in_turn([len(arm) for arm in arms], repeat))
    for arm, at in track(turns, "batches"):
        members = torch.tensor(arms[arm][at])
        rows, ends = prompts[members].to(device), stops[members].to(device)
        start = time.perf_counter()
        steps[arm] += _generate(model, rows, ends)
        seconds[arm] += time.perf_counter() - start
    waste = 1 - float(stops.sum()) / (BATCH * steps)
    return {"seconds": seconds.tolist(), "steps": steps.tolist(), "waste": waste.tolist()}


def _in_turn(sizes: Sequence[int], repeat: int) -> Iterator[tuple[int, int]]:
    # One batch of every arm after another, beginning elsewhere in every repeat: drift of the machine meets all alike.
    order = [(at / size, (arm + repeat) % len(sizes), arm, at) for arm, size in enumerate(sizes) for at in range(size)]
    for _, _, arm, at in sorted(order):
        yield arm, at


def _generate(model: Any, prompts: torch.Tensor, stops: torch.Tensor) -> int:
    with torch.no_grad():
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            max_new_tokens=int(stops.max()) + 1,  # the rows' own stops decide
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([_RowStops(stops + PROMPT_TOKENS)]),
            pad_token_id=0,
        )
    done = out.shape[1] - PROMPT_TOKENS
    if done != int(stops.max()):
        raise RuntimeError(f"the batch ended after {done} tokens; its longest request has {int(stops.max())}")
    return done


def _random_llama(layers: int, width: int, longest: int) -> Any:  # transformers' own types do not fit each other
    heads = max(1, width // 64)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=8 * width // 3 // 8 * 8,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=PROMPT_TOKENS + longest + 1,
        eos_token_id=None,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
