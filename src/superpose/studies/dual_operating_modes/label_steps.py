"""A language model on sentiments with true, random and flipped labels (DM8)."""

import random
from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from superpose.errors import InputError, choose
from superpose.experiment import current, step, track
from superpose.interpret import encode
from superpose.models import load
from superpose.studies.dual_operating_modes.figures import LABEL_KINDS
from superpose.studies.dual_operating_modes.sentiments import reviews


@step(version="1", label="sentiments with wrong labels")
def label_log_odds(
    model: str,
    dtype: str,
    kind: str,
    labels: Sequence[str],
    demonstrations: int,
    prompts: int,
    seed: int,
    fingerprint: str = "",
) -> np.ndarray:
    """Log-odds of the true label against the other after 0 to ``demonstrations`` labelled reviews.

    One pass gives a whole curve: the review after k labelled ones is the next demonstration as well. The same reviews
    come in the same order whatever labels they carry. Scored is the first token of each label.

    Args:
        model, dtype: as :func:`superpose.models.load` takes them.
        kind: "true", "random" (a fair coin) or "flipped" labels in the demonstrations.
        labels: the words for positive and negative, with what stands between the colon and them.
        demonstrations: most labelled reviews.
        prompts: independent orders of reviews.
        seed: of reviews and coins.
        fingerprint: ties a local model to its content.

    Returns:
        ``[prompts, demonstrations + 1]``, in nats.

    Raises:
        InputError: labels whose first tokens are equal.
    """
    choose("kind", kind, LABEL_KINDS)
    loaded = load(model, dtype, current().device)
    ids = [_tokens(loaded.tokenizer, label) for label in labels]
    if len(labels) != 2 or ids[0][0] == ids[1][0]:
        raise InputError(f"labels is {tuple(labels)}; allowed: two labels whose first tokens differ")
    rows = []
    for index in track(range(prompts), f"{loaded.name} {kind}"):
        drawn = reviews(demonstrations + 1, seed + index)
        coins = random.Random(f"{seed + index}:labels")
        text: list[int] = []
        ends: list[int] = []
        for i, review in enumerate(drawn):
            head = f"Review: {review.text}\nSentiment:"
            # The blank line belongs to the piece behind it: many tokenizers split newlines by what follows them.
            text += encode(loaded.tokenizer, head) if i == 0 else _tokens(loaded.tokenizer, f"\n\n{head}")
            ends.append(len(text) - 1)
            coin = coins.random() < 0.5
            shown = {"true": review.positive, "flipped": not review.positive, "random": coin}[kind]
            text += ids[0 if shown else 1]
        with torch.inference_mode():
            logits = loaded.model(
                input_ids=torch.tensor([text[: ends[-1] + 1]], device=loaded.model.device),
                logits_to_keep=torch.tensor(ends, device=loaded.model.device),
                use_cache=False,
            ).logits[0]
        odds = (logits[:, ids[0][0]] - logits[:, ids[1][0]]).double().cpu().numpy()
        rows.append(odds * np.where([review.positive for review in drawn], 1.0, -1.0))
    return np.stack(rows)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
