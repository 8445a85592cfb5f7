"""Jobs answered by the continuous batching of `transformers`: rows join and leave the running batch at any token."""

import logging
import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel

from superpose.errors import InputError
from superpose.models import context_length
from superpose.serving.codec import Codec
from superpose.serving.decoding import end_tokens, vocabulary_size
from superpose.serving.engine import EngineState
from superpose.serving.errors import ServingError, model_failed, queue_full, shutting_down, worker_gone
from superpose.serving.jobs import Job
from superpose.serving.metrics import Metrics
from superpose.serving.output import Output

logger = logging.getLogger(__name__)

PAGE = 32
# On a CPU the paged cache is sized for answers of this length; a longer one makes others wait.
USUAL_TOKENS = 1024
POLL_SECONDS = 0.1
TRIAL_SECONDS = 120
NO_END = -1


class ContinuousEngine:
    """Answers jobs through `ContinuousBatchingManager`.

    It honours temperature, top_p and stop per request, but not ``seed``: the manager draws for all rows at once.
    Where the model raises, the requests then in flight fail, and a new manager serves those that come after.

    Args:
        model: a causal language model; its attention implementation must be one that the manager can page.
        codec: its tokenizer.
        max_batch: rows at once.
        queue: most jobs that may wait; more are refused with status 429.
        greedy: take the most probable token always, and refuse requests with a temperature; it saves the sorting of
            the vocabulary that per-request sampling costs at every token.
        metrics: counts; default: its own.

    Raises:
        InputError: a count below 1, or a model that `transformers` cannot batch continuously.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        codec: Codec,
        *,
        max_batch: int = 8,
        queue: int = 256,
        greedy: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        for name, count in (("max_batch", max_batch), ("queue", queue)):
            if count < 1:
                raise InputError(f"{name} is {count}; allowed: 1 or more")
        self.codec, self.metrics = codec, metrics or Metrics()
        self.context = context_length(model)
        self.vocabulary = vocabulary_size(model)
        self._model: Any = model
        self._max_batch, self._limit, self._greedy = max_batch, queue, greedy
        self._ends = end_tokens(model, codec)
        self._lock = threading.Lock()
        self._outputs: dict[str, Output] = {}
        self._names: dict[Job, str] = {}
        self._count = 0
        self._draining = True
        self._manager: Any = None
        self._thread: threading.Thread | None = None
        self._check_model()
        self.metrics.waiting.set_function(lambda: self.state().waiting)
        self.metrics.running.set_function(lambda: self.state().running)

    def start(self) -> None:
        """Start the manager, and the thread that reads its results."""
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise RuntimeError("the engine runs already")
            self._draining = False
            self._manager = self._new_manager()
            self._manager.start()
            self._thread = threading.Thread(target=self._read, name="superpose-continuous", daemon=True)
            self._thread.start()

    def check(self, job: Job) -> None:
        """Refuse what the manager cannot honour.

        Raises:
            ServingError: the job has a seed, or a temperature where the engine is greedy.
        """
        if job.sampling.seed is not None:
            message = "seed is not honoured by continuous batching; allowed: no seed, or --batching fcfs or multi-bin"
            raise ServingError(400, message, param="seed", code="unsupported_value")
        if self._greedy and job.sampling.temperature > 0:
            message = f"temperature is {job.sampling.temperature:g}; allowed on this server: 0"
            raise ServingError(400, message, param="temperature", code="unsupported_value")

    def submit(self, jobs: Sequence[Job]) -> None:
        """Accept all of the jobs, or none.

        Raises:
            ServingError: the queue is full, or the engine is shutting down or has ended.
        """
        with self._lock:
            if self._draining:
                raise shutting_down()
            if self._thread is None or not self._thread.is_alive():
                raise worker_gone()
            if len(self._outputs) + len(jobs) > self._limit + self._max_batch:
                raise queue_full(self._limit, 1)
            for job in jobs:
                self._submit(job)

    def cancel(self, job: Job) -> None:
        """Forget a job; its row is free after the current token."""
        job.cancel()
        with self._lock:
            self._forget(job)

    def drain(self) -> None:
        """Take no more jobs."""
        with self._lock:
            self._draining = True

    def stop(self, timeout: float) -> None:
        """Drain, wait for the last answer at most ``timeout`` seconds, and fail what is left then."""
        self.drain()
        if self._thread is None:
            return
        self._thread.join(timeout)
        with self._lock:
            self._fail_all(shutting_down())
        self._thread.join(timeout=10 * POLL_SECONDS)
        self._manager.stop(block=True, hard_stop=True, timeout=timeout + 1)

    def state(self) -> EngineState:
        """Say what is going on; what has no place in the batch yet counts as waiting."""
        with self._lock:
            alive = self._thread is not None and self._thread.is_alive()
            running = min(len(self._outputs), self._max_batch)
            return EngineState(alive, self._draining, len(self._outputs) - running, running)

    def _submit(self, job: Job) -> None:
        sampling = job.sampling
        self._count += 1
        name = f"job-{self._count}"
        self._outputs[name], self._names[job] = Output(job, self.codec, self._ends), name
        options: dict[str, Any] = {}
        if not self._greedy:
            drawn = sampling.temperature > 0
            options = {
                "temperature": float(sampling.temperature) if drawn else 1.0,
                "top_k": self.vocabulary if drawn else 1,
                "top_p": float(sampling.top_p) if drawn else 1.0,
            }
        self._manager.add_request(
            job.prompt,
            name,
            max_new_tokens=sampling.max_tokens,
            # Every token is looked at only where that can matter before the end.
            streaming=job.stream or bool(sampling.stop),
            eos_token_id=NO_END if sampling.ignore_eos else sorted(self._ends) or NO_END,
            **options,
        )
        self.metrics.prompt_tokens.inc(len(job.prompt))

    def _forget(self, job: Job) -> None:
        name = self._names.pop(job, None)
        if name is not None:
            self._outputs.pop(name, None)
            self._manager.cancel_request(name)

    def _read(self) -> None:
        try:
            while not (self._draining and not self._outputs):
                result = self._manager.get_result(timeout=POLL_SECONDS)
                if result is not None:
                    self._take(result)
                elif not self._manager.is_running():
                    self._replace_manager()
        finally:
            # Also when something that nobody expected ends this thread: whoever waits must hear of it.
            with self._lock:
                self._draining = True
                self._fail_all(shutting_down())

    def _take(self, result: Any) -> None:
        output = self._outputs.get(result.request_id)
        if output is None:
            return
        over = False
        if result.error is not None:
            self.metrics.failed_batches.inc()
            output.fail(model_failed(RuntimeError(str(result.error))))
            over = True
        for token in [] if over else result.generated_tokens[len(output.tokens) :]:
            over = output.push(token)
            if over:
                break
        if over or result.is_finished():
            if not output.job.over:
                output.fail(model_failed(RuntimeError("it gave no answer")))
            with self._lock:
                self._names.pop(output.job, None)
                self._outputs.pop(result.request_id, None)
            if not result.is_finished():
                self._manager.cancel_request(result.request_id)

    def _replace_manager(self) -> None:
        with self._lock:
            error = self._manager.background_thread_status.fatal_error or RuntimeError("the manager ended")
            logger.error("continuous batching ended (%s); starting it again", error)
            self._fail_all(model_failed(error))
            self._manager.stop(block=True, hard_stop=True)
            self._manager = self._new_manager()
            self._manager.start()

    def _fail_all(self, error: ServingError) -> None:
        for output in self._outputs.values():
            output.fail(error)
        self._outputs.clear()
        self._names.clear()

    def _new_manager(self) -> Any:
        sampled: dict[str, Any] = {} if self._greedy else {"temperature": 0.5, "top_k": 50, "top_p": 0.5}
        config = GenerationConfig(do_sample=not self._greedy, eos_token_id=NO_END, pad_token_id=0, **sampled)
        blocks = None
        if self._model.device.type == "cpu":
            longest = self.context or USUAL_TOKENS
            tokens = max(longest, self._max_batch * min(longest, USUAL_TOKENS))
            blocks = math.ceil(tokens / PAGE) + self._max_batch
        batching = ContinuousBatchingConfig(
            page_size=PAGE,
            num_blocks=blocks,
            max_batch_tokens=USUAL_TOKENS if blocks else None,
            max_requests_per_batch=self._max_batch,
            per_request_processors=not self._greedy,
            allow_block_sharing=False,
        )
        with torch.no_grad():
            return self._model.init_continuous_batching(generation_config=config, continuous_batching_config=batching)

    def _check_model(self) -> None:
        name = type(self._model).__name__
        if not hasattr(self._model, "init_continuous_batching"):
            raise InputError(f"model is a {name}, which transformers cannot batch continuously; use fcfs or multi-bin")
        manager: Any = None
        try:
            manager = self._new_manager()
            manager.start()
            manager.add_request([0], "trial", max_new_tokens=1)
            result = manager.get_result(timeout=TRIAL_SECONDS)
            if result is None or result.error is not None:
                raise RuntimeError("no answer to a trial" if result is None else result.error)
        # Whatever transformers misses in a model shows as one of many exceptions; all of them mean the same here.
        except Exception as error:
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise InputError(
                f"model is a {name}, which transformers cannot batch continuously ({type(error).__name__}: {reason}); "
                "use --batching fcfs or multi-bin"
            ) from error
        finally:
            if manager is not None:
                manager.stop(block=True, hard_stop=True)
