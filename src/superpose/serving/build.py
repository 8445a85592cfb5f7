"""From a loaded model and a few words to an engine."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from transformers import Cache

from superpose.errors import InputError, choose
from superpose.inference import MultiBinScheduler
from superpose.models import LoadedModel
from superpose.serving.codec import Codec
from superpose.serving.continuous import ContinuousEngine
from superpose.serving.decoding import BatchDecoder
from superpose.serving.engine import BatchEngine, Engine
from superpose.serving.jobs import Job

if TYPE_CHECKING:
    from superpose.inference import Dictionaries, LexicoSettings

BATCHING = ("fcfs", "multi-bin", "continuous")
CACHES = ("dynamic", "lexico")


def build_engine(
    loaded: LoadedModel,
    *,
    batching: str = "fcfs",
    edges: Sequence[float] | None = None,
    predict: Callable[[Job], float] | None = None,
    max_batch: int = 8,
    max_wait: float = 0.05,
    queue: int = 256,
    cache: str = "dynamic",
    dictionaries: "Dictionaries | None" = None,
    lexico: "LexicoSettings | None" = None,
    plain_chat: bool = False,
) -> Engine:
    """Return an engine for a model; it is not started yet.

    Args:
        loaded: the model and its tokenizer.
        batching: ``fcfs``, ``multi-bin`` or ``continuous``.
        edges: of the bins, in tokens; for ``multi-bin`` only.
        predict: the length, in tokens, by which a job is binned; default: its ``max_tokens``.
        max_batch: most prompts in a batch.
        max_wait: seconds that a prompt waits for its batch to fill while the model is free.
        queue: most prompts that may wait.
        cache: ``dynamic``, or ``lexico`` for sparse codes of `dictionaries`.
        dictionaries: fitted for this model.
        lexico: sparsity, buffer and so on; default: `LexicoSettings`' own.
        plain_chat: see `Codec`.

    Raises:
        InputError: an unknown word, settings that do not go together, or a model that does not take them.
    """
    choose("batching", batching, BATCHING)
    choose("cache", cache, CACHES)
    if batching == "multi-bin" and edges is None:
        raise InputError("edges is None; multi-bin batching needs the edges of its bins, in tokens")
    if batching != "multi-bin" and edges is not None:
        raise InputError(f"edges is {list(edges)}, but batching is {batching!r}; allowed: edges with multi-bin only")
    codec = Codec(loaded.tokenizer, plain_chat=plain_chat)
    if batching == "continuous":
        if cache != "dynamic":
            raise InputError(
                f"cache is {cache!r}, but continuous batching has a paged cache of its own; allowed: dynamic"
            )
        return ContinuousEngine(loaded.model, codec, max_batch=max_batch, queue=queue)
    scheduler: MultiBinScheduler[Job] = MultiBinScheduler(edges, max_batch, max_wait)
    decoder = BatchDecoder(loaded.model, codec, _cache(loaded, cache, dictionaries, lexico))
    return BatchEngine(decoder, scheduler, predict=predict, queue=queue)


def _cache(
    loaded: LoadedModel, cache: str, dictionaries: "Dictionaries | None", lexico: "LexicoSettings | None"
) -> Callable[[], Cache] | None:
    if cache == "dynamic":
        if dictionaries is not None or lexico is not None:
            raise InputError("dictionaries are given, but cache is 'dynamic'; allowed: dictionaries with lexico only")
        return None
    if dictionaries is None:
        raise InputError("dictionaries is None; cache 'lexico' needs the model's dictionaries: superpose lexico fit")
    from superpose.inference import LexicoCache, LexicoSettings

    model, settings = loaded.model, lexico or LexicoSettings()

    def new_cache() -> Cache:
        return LexicoCache(model, dictionaries, settings)

    # Once before the first request, so that dictionaries of another model are refused at the start.
    new_cache()
    return new_cache
