"""A thread that answers single prompts in batches of similar predicted length, around any function that does batches.

with MultiBinServer(generate, predictor, quantile_edges(lengths, 4), batch_size=8) as server:
    texts = server.map(prompts)          # or server.submit(prompt).result(), or await server.generate(prompt)
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from superpose.errors import InputError
from superpose.inference.bins import SlidingEdges
from superpose.inference.length_prediction import LengthPredictor
from superpose.inference.scheduling import Batch, MultiBinScheduler


class MultiBinServer:
    """Answers prompts one at a time to many callers; runs them in batches, one batch at a time.

    Args:
        generate: maps a list of prompts to as many texts: ``model.generate`` behind a tokenizer, llama.cpp, anything.
        predictor: fitted; its unit is that of the edges.
        edges: of the bins; None: one bin, first come, first served.
        batch_size: prompts per batch, B.
        max_wait: seconds that a prompt may wait for its batch to fill.
        length: measures a text in the unit of the edges; with ``sliding`` the edges follow the answers.
        sliding: the window of answers over which edges are estimated anew; needs ``length``.

    Raises:
        InputError: as :class:`MultiBinScheduler`; ``sliding`` without ``length``; a predictor without ``predict``.
    """

    def __init__(
        self,
        generate: Callable[[list[str]], Sequence[str]],
        predictor: LengthPredictor,
        edges: ArrayLike | None = None,
        batch_size: int = 8,
        max_wait: float = 0.05,
        *,
        length: Callable[[str], float] | None = None,
        sliding: SlidingEdges | None = None,
    ) -> None:
        if sliding is not None and length is None:
            raise InputError("length is None; allowed with sliding edges: a function from a text to its length")
        self._generate = generate
        self._predictor = predictor
        self._length = length
        self._sliding = sliding
        self._scheduler: MultiBinScheduler[str] = MultiBinScheduler(edges, batch_size, max_wait)
        self._wake = threading.Event()
        self._closed = False
        self._gate = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="multi-bin-server", daemon=True)
        self._worker.start()

    def submit(self, prompt: str) -> Future[str]:
        """Queue a prompt; its text, or what ``generate`` raised for its batch, arrives in the future.

        Raises:
            InputError: the server is closed, or the prediction is no length.
        """
        predicted = float(self._predictor.predict([prompt])[0])
        with self._gate:
            if self._closed:
                raise InputError("the server is closed; allowed: submitting before close()")
            future = self._scheduler.submit(prompt, predicted)
        self._wake.set()
        return future

    async def generate(self, prompt: str) -> str:
        """Answer one prompt in an event loop; cancelling the task takes a waiting prompt out of its bin."""
        return await asyncio.wrap_future(self.submit(prompt))

    def map(self, prompts: Sequence[str]) -> list[str]:
        """Answer many prompts, in their order; raises what the first failed one raised."""
        return [future.result() for future in [self.submit(prompt) for prompt in prompts]]

    def close(self) -> None:
        """Answer what waits, then stop."""
        with self._gate:
            self._closed = True
        self._wake.set()
        self._worker.join()

    def __enter__(self) -> "MultiBinServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _work(self) -> None:
        while True:
            with self._gate:
                closed = self._closed
            for batch in self._scheduler.flush() if closed else self._scheduler.poll():
                self._run(batch)
            if closed:
                return
            deadline = self._scheduler.next_deadline()
            self._wake.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._wake.clear()

    def _run(self, batch: Batch[str]) -> None:
        started = batch.start()
        if not len(started):
            return
        try:
            texts = list(self._generate(list(started.requests)))
            if len(texts) != len(started):
                raise InputError(f"generate returned {len(texts)} texts for {len(started)} prompts; allowed: as many")
            edges = self._observe(texts)
        except Exception as error:
            # Whatever went wrong is this batch's alone: its callers get it, the others are served on.
            for future in started.futures:
                future.set_exception(error)
            return
        for future, text in zip(started.futures, texts, strict=True):
            future.set_result(text)
        if edges is not None:
            self._scheduler.rebin(edges)

    def _observe(self, texts: Sequence[str]) -> Float[np.ndarray, " edges"] | None:
        if self._sliding is None or self._length is None:
            return None
        found = [self._sliding.observe(self._length(text)) for text in texts]
        return next((edges for edges in reversed(found) if edges is not None), None)
