"""Short reviews with a known sentiment, from templates and a small lexicon."""

import random
from dataclasses import dataclass

TEMPLATES = (
    "The {thing} was {word}.",
    "What a {word} {thing}.",
    "I thought the {thing} was {word}.",
    "Honestly, the {thing} felt {word} to me.",
    "We all found the {thing} {word}.",
    "My friends called the {thing} {word}.",
)
THINGS = (
    "movie", "book", "meal", "hotel", "concert", "play", "show", "novel", "album", "restaurant", "game", "speech",
)  # fmt: skip
POSITIVE = (
    "wonderful", "great", "excellent", "delightful", "superb", "fantastic", "brilliant", "lovely", "beautiful",
    "charming", "amazing", "terrific", "marvelous", "splendid", "perfect", "outstanding", "impressive", "enjoyable",
    "pleasant", "magnificent", "remarkable", "thrilling", "captivating", "stunning", "gorgeous", "fabulous",
    "engaging", "refreshing", "heartwarming", "inspiring", "satisfying", "memorable", "hilarious", "exciting",
    "fascinating", "touching", "clever", "glorious", "exquisite", "flawless",
)  # fmt: skip
NEGATIVE = (
    "terrible", "awful", "horrible", "dreadful", "bad", "boring", "disappointing", "poor", "dull", "ugly",
    "disgusting", "lousy", "miserable", "mediocre", "tedious", "annoying", "pathetic", "ridiculous", "stupid",
    "painful", "unpleasant", "atrocious", "abysmal", "forgettable", "unbearable", "depressing", "lifeless", "clumsy",
    "pointless", "frustrating", "inferior", "messy", "shallow", "bland", "hopeless", "offensive", "worthless",
    "appalling", "dismal", "flawed",
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """A sentence and whether it is positive."""

    text: str
    positive: bool


def reviews(count: int, seed: int) -> list[Review]:
    """Draw reviews whose words do not repeat before a sentiment has used all of its own; the sentiments are fair coins.

    Args:
        count: how many.
        seed: of the words, templates and sentiments.
    """
    rng = random.Random(seed)
    left: dict[bool, list[str]] = {True: [], False: []}
    drawn = []
    for _ in range(count):
        positive = rng.random() < 0.5
        if not left[positive]:
            left[positive] = list(POSITIVE if positive else NEGATIVE)
            rng.shuffle(left[positive])
        text = rng.choice(TEMPLATES).format(thing=rng.choice(THINGS), word=left[positive].pop())
        drawn.append(Review(text, positive))
    return drawn
