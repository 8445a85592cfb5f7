"""What the server counts, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Prometheus metrics of one server; nothing is global, so that several servers can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        self.requests = Counter(
            "superpose_requests", "HTTP requests by endpoint and status.", ["endpoint", "status"], registry=r
        )
        self.prompt_tokens = Counter("superpose_prompt_tokens", "Tokens of accepted prompts.", registry=r)
        self.completion_tokens = Counter("superpose_completion_tokens", "Tokens of complete answers.", registry=r)
        self.abandoned = Counter(
            "superpose_abandoned_requests", "Requests whose client left, or whose time was over.", registry=r
        )
        self.failed_batches = Counter("superpose_failed_batches", "Batches in which the model raised.", registry=r)
        self.waiting = Gauge("superpose_waiting_requests", "Prompts that wait for a batch.", registry=r)
        self.running = Gauge("superpose_running_requests", "Prompts in the running batch.", registry=r)
        self.batch_size = Histogram(
            "superpose_batch_size", "Prompts per batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128), registry=r
        )
        self.batch_seconds = Histogram("superpose_batch_seconds", "Time per batch.", buckets=_SECONDS, registry=r)
        self.first_text_seconds = Histogram(
            "superpose_first_text_seconds", "Time to the first text of a streamed answer.", buckets=_SECONDS, registry=r
        )
        self.answer_seconds = Histogram(
            "superpose_answer_seconds", "Time to a complete answer.", buckets=_SECONDS, registry=r
        )

    def text(self) -> bytes:
        """Return the metrics as Prometheus reads them."""
        return generate_latest(self.registry)
