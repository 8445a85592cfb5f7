"""Running one batch of jobs, token by token, on a `transformers` model."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import Cache, PreTrainedModel

from superpose.models import context_length, fresh_cache
from superpose.serving.codec import Codec
from superpose.serving.errors import ServingError, model_failed
from superpose.serving.jobs import Job
from superpose.serving.output import Output
from superpose.serving.sampling import RowSampler, choose


class BatchDecoder:
    """Continues a batch of prompts, every row as its own request says.

    Rows that end, or whose client has gone, leave the batch at once through ``cache.batch_select_indices``; the
    others go on without them.

    Args:
        model: a causal language model in eval mode.
        codec: its tokenizer.
        new_cache: makes the empty cache of a batch; default: a `DynamicCache` of the model's layer kinds.
    """

    def __init__(self, model: PreTrainedModel, codec: Codec, new_cache: Callable[[], Cache] | None = None) -> None:
        self.codec = codec
        self.context = context_length(model)
        self.vocabulary = vocabulary_size(model)
        self._model: Any = model
        self._new_cache = new_cache or (lambda: fresh_cache(model))
        self._ends = end_tokens(model, codec)
        parameters = inspect.signature(model.forward).parameters
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def run(self, jobs: Sequence[Job]) -> None:
        """Answer jobs together; every event goes to its own job.

        Raises:
            Exception: whatever the model raises; the jobs that are not over are then the caller's to fail.
        """
        with torch.inference_mode():
            self._run([Output(job, self.codec, self._ends) for job in jobs if not job.over])

    def _run(self, rows: list[Output]) -> None:
        if not rows:
            return
        device = self._model.device
        samplers = [RowSampler(row.job.sampling) for row in rows]
        ids, mask = _left_padded([row.job.prompt for row in rows], max(r.job.sampling.max_tokens for r in rows), device)
        width = ids.shape[1]
        positions = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)
        cache = self._new_cache()
        while True:
            logits = self._forward(ids, mask[:, :width], positions, cache)
            tokens, valid = choose(logits, samplers)
            kept = []
            for i, (row, token, fine) in enumerate(zip(rows, tokens.tolist(), valid.tolist(), strict=True)):
                if not fine:
                    row.fail(model_failed(FloatingPointError("its logits are not finite numbers")))
                elif not row.push(token):
                    kept.append(i)
            if not kept:
                return
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            if len(kept) < len(rows):
                rows, samplers = [rows[i] for i in kept], [samplers[i] for i in kept]
                index = torch.tensor(kept, device=device)
                cache.batch_select_indices(index)
                ids, positions, mask = ids[index], positions[index], mask[index]
            width += 1

    def _forward(
        self,
        ids: Int[Tensor, "rows new"],
        mask: Int[Tensor, "rows pos"],
        positions: Int[Tensor, "rows new"],
        cache: Cache,
    ) -> Float[Tensor, "rows vocabulary"]:
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self._options,
        )
        return output.logits[:, -1]


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return how many tokens the model has; its tokenizer may have fewer."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def end_tokens(model: PreTrainedModel, codec: Codec) -> Collection[int]:
    """Return the tokens that end an answer: the generation config's and the tokenizer's."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, codec.end] if token is not None)


def check_prompt(prompt: Sequence[int], vocabulary: int) -> None:
    """Refuse tokens that the model does not have.

    Raises:
        ServingError: a token outside the vocabulary.
    """
    wrong = next((token for token in prompt if not 0 <= token < vocabulary), None)
    if wrong is not None:
        message = f"prompt holds the token {wrong}; allowed: 0 to {vocabulary - 1}"
        raise ServingError(400, message, param="prompt")


def _left_padded(
    prompts: Sequence[Sequence[int]], room: int, device: torch.device
) -> tuple[Int[Tensor, "rows prompt"], Int[Tensor, "rows total"]]:
    """Prompts that end together, and a mask with room for the tokens to come, all of them real."""
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.ones(len(prompts), longest + room, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, : longest - len(prompt)] = 0
    return ids.to(device), mask.to(device)
