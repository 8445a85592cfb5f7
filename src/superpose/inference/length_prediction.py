"""Predicting how long an answer will be from its prompt.

    predictor = TfidfLength().fit(prompts, lengths)
    edges = quantile_edges(lengths, 4)
    scheduler.submit(prompt, predictor.predict([prompt])[0])

The length is predicted, not the bin, so one predictor serves any number of bins (arXiv 2412.04504, appendix C.1).
"""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from superpose.errors import InputError, require
from superpose.inference.bins import assign_bins
from superpose.theory.batching import checked_lengths

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@runtime_checkable
class LengthPredictor(Protocol):
    """What a scheduler needs of a predictor; anything with these two methods is one."""

    def fit(self, prompts: Sequence[str], lengths: ArrayLike) -> "LengthPredictor":
        """Learn from prompts and the true lengths of their answers; return the predictor itself."""
        ...

    def predict(self, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """Return a predicted length, 0 or more, for every prompt, in the unit of the lengths learned from."""
        ...


class ConstantLength:
    """The median length for every prompt: all requests in one bin, as without a predictor."""

    def fit(self, prompts: Sequence[str], lengths: ArrayLike) -> "ConstantLength":
        """Remember the median."""
        self._median = float(np.median(_examples(prompts, lengths)))
        return self

    def predict(self, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """Return the median for every prompt."""
        return np.full(len(prompts), _fitted(self, "_median"))


class PromptLength:
    """A straight line through the number of the prompt's characters, by least squares."""

    def fit(self, prompts: Sequence[str], lengths: ArrayLike) -> "PromptLength":
        """Fit slope and intercept; with prompts of one length only, the mean."""
        y = _examples(prompts, lengths)
        x = _characters(prompts)
        self._line = np.polyfit(x, y, 1) if np.ptp(x) else np.array([0.0, y.mean()])
        return self

    def predict(self, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """Return the line's value, at least 0."""
        return np.maximum(np.polyval(_fitted(self, "_line"), _characters(prompts)), 0.0)


class TfidfLength:
    """Words of the prompt, the numbers in it and its length, under a linear model with an absolute (L1) loss.

    Needs scikit-learn (``pip install 'superpose[lab]'``).

    Args:
        ngrams: longest run of words that counts as a feature.
        penalty: inverse strength of the quadratic penalty (``C`` of ``LinearSVR``).

    Raises:
        InputError: scikit-learn is missing, or a setting is out of range.
    """

    def __init__(self, ngrams: int = 2, penalty: float = 1.0) -> None:
        if ngrams < 1:
            raise InputError(f"ngrams is {ngrams}; allowed: 1 or more")
        require("sklearn", "lab")
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._head = _AbsoluteLoss(penalty)
        self._words: Any = TfidfVectorizer(
            ngram_range=(1, ngrams), sublinear_tf=True, token_pattern=r"(?u)\b[^\W\d]+\b"
        )

    def fit(self, prompts: Sequence[str], lengths: ArrayLike) -> "TfidfLength":
        """Learn the vocabulary and the weights."""
        from scipy.sparse import csr_array, hstack

        y = _examples(prompts, lengths)
        self._head.fit(hstack([self._words.fit_transform(prompts), csr_array(_surface(prompts))]).tocsr(), y)
        return self

    def predict(self, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """Return the linear model's value, at least 0."""
        from scipy.sparse import csr_array, hstack

        if not prompts:
            return np.empty(0)
        self._head.check()
        return self._head.predict(hstack([self._words.transform(prompts), csr_array(_surface(prompts))]).tocsr())


class EmbeddingLength:
    """A linear head with an absolute (L1) loss on the mean last hidden state of a frozen language model.

    The paper's predictor is BERT and one linear layer. Needs scikit-learn (``pip install 'superpose[lab]'``).

    Args:
        model: any transformers model that returns ``last_hidden_state``, or ``hidden_states`` on request.
        tokenizer: its tokenizer; one without a padding token takes prompts one by one.
        batch_size: prompts per forward pass.
        penalty: inverse strength of the quadratic penalty.

    Raises:
        InputError: scikit-learn is missing, or a setting is out of range.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        batch_size: int = 16,
        penalty: float = 1.0,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; allowed: 1 or more")
        self._model, self._tokenizer = model, tokenizer
        self._batch_size = batch_size if tokenizer.pad_token_id is not None else 1
        self._head = _AbsoluteLoss(penalty)

    def fit(self, prompts: Sequence[str], lengths: ArrayLike) -> "EmbeddingLength":
        """Embed the prompts and learn the head; the model stays as it is."""
        y = _examples(prompts, lengths)
        self._head.fit(self._embed(prompts), y)
        return self

    def predict(self, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """Return the head's value, at least 0."""
        self._head.check()
        return self._head.predict(self._embed(prompts)) if prompts else np.empty(0)

    def _embed(self, prompts: Sequence[str]) -> Float[np.ndarray, "prompts width"]:
        import torch

        rows = np.zeros((len(prompts), self._model.config.get_text_config().hidden_size))
        # Some tokenizers make nothing of an empty prompt; its row stays zero.
        there = [i for i, prompt in enumerate(prompts) if self._tokenizer(prompt)["input_ids"]]
        with torch.no_grad():
            for first in range(0, len(there), self._batch_size):
                members = there[first : first + self._batch_size]
                texts = [prompts[i] for i in members]
                encoded = self._tokenizer(texts, return_tensors="pt", padding=len(texts) > 1).to(self._model.device)
                out = self._model(**encoded, output_hidden_states=True)
                hidden = getattr(out, "last_hidden_state", None)
                hidden = out.hidden_states[-1] if hidden is None else hidden
                mask = encoded["attention_mask"].unsqueeze(-1)
                rows[members] = ((hidden * mask).sum(1) / mask.sum(1)).double().cpu().numpy()
        return rows


class _AbsoluteLoss:
    """Linear regression under the absolute error; lengths and features are scaled, so the penalty needs no unit."""

    def __init__(self, penalty: float) -> None:
        if not penalty > 0:
            raise InputError(f"penalty is {penalty}; allowed: numbers above 0")
        require("sklearn", "lab")
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import MaxAbsScaler
        from sklearn.svm import LinearSVR

        # No insensitive band and its loss linear: this is the absolute error.
        svr = LinearSVR(epsilon=0.0, loss="epsilon_insensitive", C=penalty, max_iter=20_000, tol=1e-3, random_state=0)
        self._pipeline: Any = make_pipeline(MaxAbsScaler(), svr)
        self._scale: float | None = None

    def fit(self, features: Any, lengths: np.ndarray) -> None:
        scale = float(lengths.std()) or 1.0
        self._centre = float(np.median(lengths))
        self._pipeline.fit(features, (lengths - self._centre) / scale)
        self._scale = scale

    def check(self) -> None:
        if self._scale is None:
            raise InputError("the predictor is not fitted; call fit(prompts, lengths) first")

    def predict(self, features: Any) -> Float[np.ndarray, " prompts"]:
        self.check()
        return np.maximum(self._pipeline.predict(features) * self._scale + self._centre, 0.0)


def bin_accuracy(
    predicted: ArrayLike, truth: ArrayLike, edges: ArrayLike
) -> tuple[Int[np.ndarray, " requests"], float, float]:
    """Return how far each predicted bin lies from the true one, and the shares in the right one and within one bin.

    Args:
        predicted: predicted lengths.
        truth: true lengths, in the same unit.
        edges: of the bins.

    Raises:
        InputError: lengths that are none, different numbers of them, or edges that do not increase.
    """
    guessed, right = assign_bins(predicted, edges), assign_bins(truth, edges)
    if len(guessed) != len(right):
        raise InputError(f"predicted and truth have {len(guessed)} and {len(right)} entries; allowed: the same number")
    distance = np.abs(guessed - right)
    return distance, float((distance == 0).mean()), float((distance <= 1).mean())


def _examples(prompts: Sequence[str], lengths: ArrayLike) -> Float[np.ndarray, " prompts"]:
    values = checked_lengths(lengths)
    if len(prompts) != len(values):
        raise InputError(f"prompts and lengths have {len(prompts)} and {len(values)} entries; allowed: the same number")
    return values


def _fitted(predictor: object, name: str) -> Any:
    if not hasattr(predictor, name):
        raise InputError("the predictor is not fitted; call fit(prompts, lengths) first")
    return getattr(predictor, name)


def _characters(prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
    return np.array([float(len(prompt)) for prompt in prompts])


def _surface(prompts: Sequence[str]) -> Float[np.ndarray, "prompts features"]:
    # "Count to 37": no vocabulary holds every number, but its size often is the answer's length.
    rows = []
    for prompt in prompts:
        numbers = [float(found) for found in re.findall(r"\d{1,6}", prompt)]
        largest = max(numbers, default=0.0)
        rows.append([min(largest, 1000.0), np.log1p(largest), float(bool(numbers)), float(len(prompt))])
    return np.array(rows)
