"""Prompts whose answers' lengths can be read from them in part."""

from collections.abc import Sequence

import numpy as np

TOPICS = (
    "the sea", "bread", "chess", "volcanoes", "the moon", "bicycles", "honey", "glass", "rivers", "maps", "music",
    "winter", "trains", "paper", "ants", "clocks", "silk", "deserts", "coffee", "bridges",
)  # fmt: skip

# Template, tokens relative to the median for n = 0, further ones per unit of n, and the spread of the logarithm. A yes
# or no is short for certain; how long a story gets, hardly anybody can tell from its prompt.
TEMPLATES = (
    ("Answer yes or no: do people need {topic}?", 0.1, 0.0, 0.3),
    ("Count from 1 to {n}.", 0.1, 0.06, 0.05),
    ("List {n} things about {topic}, one per line.", 0.1, 0.14, 0.25),
    ("In one sentence, what is {topic}?", 0.6, 0.0, 0.35),
    ("Explain {topic} to a child.", 1.3, 0.0, 0.5),
    ("Write a paragraph about {topic}.", 2.0, 0.0, 0.4),
    ("Tell me about {topic}.", 1.2, 0.0, 0.8),
)


def template_prompts(
    count: int, median: float, cap: int, generator: np.random.Generator
) -> tuple[list[str], np.ndarray]:
    """Draw prompts from the templates, and the lengths in tokens of their answers, 1 to ``cap``.

    Args:
        count: how many.
        median: scale of the lengths.
        cap: the longest.
        generator: of the draws.
    """
    texts, lengths = [], []
    for _ in range(count):
        text, base, per_unit, spread = TEMPLATES[generator.integers(len(TEMPLATES))]
        n = int(generator.integers(3, 31))
        texts.append(text.format(n=n, topic=_pick(TOPICS, generator)))
        expected = median * (base + per_unit * n * ("{n}" in text))
        lengths.append(round(expected * float(np.exp(spread * generator.normal()))))
    return texts, np.clip(np.array(lengths, dtype=float), 1, cap)


def _pick(values: Sequence[str], generator: np.random.Generator) -> str:
    return values[int(generator.integers(len(values)))]
