"""The engine's queue and thread, with runners that need no model."""

import threading
import time

import pytest

from serving_tools import tiny_engine
from superpose.errors import InputError
from superpose.inference import MultiBinScheduler
from superpose.serving import BatchEngine, Codec, Done, Failed, Job, Sampling, ServingError
from tiny import tiny_tokenizer


class Echo:
    """Answers every job with its own tokens; may be told to wait, and fails where a prompt begins with 13."""

    context, vocabulary = 100, 200

    def __init__(self):
        self.codec = Codec(tiny_tokenizer())
        self.batches = []
        self.go = threading.Event()
        self.go.set()
        self.started = threading.Event()

    def run(self, jobs):
        self.batches.append([job.prompt for job in jobs])
        self.started.set()
        assert self.go.wait(20)
        for job in jobs:
            if job.prompt[0] == 13:
                raise RuntimeError("unlucky\nwith details")
            if job.prompt[0] != 14:
                job.finish(Done(" ".join(map(str, job.prompt)), "stop", len(job.prompt)))


class Client:
    def __init__(self, engine, prompt, max_tokens=10):
        self.events = []
        self.over = threading.Event()
        self.engine = engine
        self.job = Job(prompt, Sampling(max_tokens), self._take)

    def _take(self, event):
        self.events.append(event)
        self.over.set()

    def submit(self):
        self.engine.submit([self.job])
        return self

    @property
    def event(self):
        assert self.over.wait(20), "no answer"
        return self.events[0]


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def start(echo):
    engines = []

    def make(**options):
        engine = tiny_engine(runner=echo, **options)
        engine.start()
        engines.append(engine)
        return engine

    yield make
    echo.go.set()
    for engine in engines:
        engine.stop(5)
        assert not engine.state().alive


def held(echo, engine, prompt=(1,)):
    """Keep the engine busy with one job."""
    echo.go.clear()
    echo.started.clear()
    client = Client(engine, list(prompt)).submit()
    assert echo.started.wait(20)
    return client


def test_each_job_gets_its_own_answer(echo, start):
    engine = start(batch=4)
    clients = [Client(engine, [i + 20, i]).submit() for i in range(50)]
    assert [client.event.text for client in clients] == [f"{i + 20} {i}" for i in range(50)]
    assert all(len(client.events) == 1 for client in clients)
    assert sum(map(len, echo.batches)) == 50
    assert engine.state().waiting == engine.state().running == 0


def test_a_failing_batch_fails_its_own_jobs_and_the_engine_goes_on(echo, start):
    engine = start(batch=2, max_wait=0.01)
    first = held(echo, engine)
    unlucky, neighbour = Client(engine, [13]).submit(), Client(engine, [5]).submit()
    later = [Client(engine, [6]).submit(), Client(engine, [7]).submit()]
    echo.go.set()
    for client in (unlucky, neighbour):
        assert client.event.error.status == 500
        assert client.event.error.message == "the model failed on this request: RuntimeError: unlucky"
    assert [client.event.text for client in (first, *later)] == ["1", "6", "7"]
    assert engine.state().alive
    assert engine.metrics.registry.get_sample_value("superpose_failed_batches_total") == 1


def test_a_runner_that_forgets_a_job_does_not_leave_it_hanging(start):
    client = Client(start(), [14]).submit()
    assert isinstance(client.event, Failed)


def test_a_full_queue_refuses_and_says_when_to_come_back(echo, start):
    engine = start(batch=1, queue=3)
    first = held(echo, engine)
    waiting = [Client(engine, [i]).submit() for i in (2, 3)]
    with pytest.raises(ServingError, match="limit of 3") as refused:
        engine.submit([Client(engine, [4]).job, Client(engine, [5]).job])
    assert refused.value.status == 429
    assert int(refused.value.headers["Retry-After"]) >= 1
    waiting.append(Client(engine, [6]).submit())
    assert engine.state().waiting == 3
    engine.cancel(waiting[1].job)
    waiting[1] = Client(engine, [7]).submit()
    echo.go.set()
    assert [client.event.text for client in (first, *waiting)] == ["1", "2", "7", "6"]
    assert [3] not in [prompt for batch in echo.batches for prompt in batch]


def test_full_batches_go_before_incomplete_ones_but_not_for_ever(echo, start):
    engine = start(batch=2, max_wait=0.0, edges=[1, 20, 100])
    first = held(echo, engine)
    lone = Client(engine, [2], max_tokens=50).submit()
    time.sleep(0.01)
    many = [Client(engine, [i]).submit() for i in range(30, 70)]
    echo.go.set()
    assert all(isinstance(client.event, Done) for client in (first, lone, *many))
    place = echo.batches.index([[2]])
    assert 1 < place < 12
    assert all(len(batch) == 2 for i, batch in enumerate(echo.batches) if i not in (0, place))


def test_draining_runs_what_waits_at_once_and_takes_no_more(echo, start):
    engine = start(batch=8, max_wait=1000)
    clients = [Client(engine, [i + 1]).submit() for i in range(3)]
    assert not clients[0].over.wait(0.05)
    engine.drain()
    assert [client.event.text for client in clients] == ["1", "2", "3"]
    with pytest.raises(ServingError, match="shutting down") as refused:
        Client(engine, [9]).submit()
    assert refused.value.status == 503
    engine.stop(5)
    engine.start()
    engine.drain()


def test_stopping_without_patience_fails_what_is_left(echo, start):
    engine = start(batch=1)
    running, waiting = held(echo, engine), Client(engine, [2]).submit()
    engine.stop(0.01)
    assert all(client.event.error.status == 503 for client in (running, waiting))
    echo.go.set()
    assert len(running.events) == 1


def test_a_job_cancelled_while_it_waits_is_never_run(echo, start):
    engine = start(batch=8, max_wait=0.1)
    gone, other = Client(engine, [2]).submit(), Client(engine, [3]).submit()
    engine.cancel(gone.job)
    assert other.event.text == "3"
    assert echo.batches == [[[3]]]
    assert gone.events == []


def test_an_engine_that_was_not_started_refuses(echo):
    engine = tiny_engine(runner=echo)
    with pytest.raises(ServingError):
        Client(engine, [1]).submit()
    assert not engine.state().alive


def test_settings_are_checked(echo):
    with pytest.raises(InputError, match="queue is 0"):
        tiny_engine(runner=echo, queue=0)
    with pytest.raises(InputError, match="max_wait None"):
        BatchEngine(echo, MultiBinScheduler(None, 8, None))


def test_bins_are_by_the_given_prediction(echo, start):
    engine = start(batch=2, max_wait=0.5, edges=[0, 50, 100], predict=lambda job: float(job.prompt[0]))
    first = held(echo, engine)
    clients = [Client(engine, [i]).submit() for i in (10, 90, 11, 91)]
    echo.go.set()
    assert all(isinstance(client.event, Done) for client in (first, *clients))
    assert echo.batches[1:] == [[[10], [11]], [[90], [91]]]
