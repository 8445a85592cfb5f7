"""The scheduler: every request leaves exactly once, in its bin, in order, in time."""

import math
import threading
from concurrent.futures import CancelledError

import pytest

from superpose.errors import InputError
from superpose.inference import MultiBinScheduler


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def requests(batches):
    return [batch.requests for batch in batches]


def test_one_bin_is_first_come_first_served(clock):
    for edges in (None, [0.0, 10.0]):
        scheduler = MultiBinScheduler(edges, 3, clock=clock)
        for i, length in enumerate([9, 1, 5, 2, 8, 7, 3]):
            scheduler.submit(i, length)
        assert requests(scheduler.poll()) == [(0, 1, 2), (3, 4, 5)]
        assert scheduler.waiting() == (1,)
        assert requests(scheduler.flush()) == [(6,)]
        assert scheduler.poll() == []


def test_batches_hold_one_bin_and_come_in_order_of_formation(clock):
    scheduler = MultiBinScheduler([0, 10, 20], 2, clock=clock)
    for i, length in enumerate([1, 15, 16, 2, 9.99, 10, 10, 3]):
        clock.now = 100.0 + i
        scheduler.submit((i, length), length)
    batches = scheduler.poll()
    assert [[i for i, _ in batch.requests] for batch in batches] == [[1, 2], [0, 3], [5, 6], [4, 7]]
    assert [batch.bin for batch in batches] == [1, 0, 1, 0]
    assert [batch.formed_at for batch in batches] == [102.0, 103.0, 106.0, 107.0]


def test_predictions_outside_the_edges_go_to_the_nearest_bin(clock):
    scheduler = MultiBinScheduler([5, 10, 20], 1, clock=clock)
    for length in (0, 5, 20, 1e9):
        scheduler.submit(length, length)
    assert [(batch.requests[0], batch.bin) for batch in scheduler.poll()] == [(0, 0), (5, 0), (20, 1), (1e9, 1)]


def test_a_request_leaves_when_its_wait_is_over(clock):
    scheduler = MultiBinScheduler([0, 10, 20], 3, max_wait=0.3, clock=clock)
    assert scheduler.next_deadline() is None
    scheduler.submit("a", 15)
    clock.now += 0.1
    scheduler.submit("b", 1)
    scheduler.submit("c", 15)
    deadline = scheduler.next_deadline()
    assert deadline == pytest.approx(100.3)
    assert scheduler.poll(deadline - 1e-9) == []
    (batch,) = scheduler.poll(deadline)
    assert (batch.requests, batch.bin, batch.formed_at) == (("a", "c"), 1, deadline)
    assert requests(scheduler.poll(200.0)) == [("b",)]
    assert scheduler.next_deadline() is None


def test_a_full_batch_is_due_at_once(clock):
    scheduler = MultiBinScheduler(None, 2, max_wait=5, clock=clock)
    scheduler.submit(0, 1)
    scheduler.submit(1, 1)
    assert scheduler.next_deadline() == clock.now
    assert len(scheduler.poll()) == 1


def test_no_wait_means_whatever_is_there(clock):
    scheduler = MultiBinScheduler(None, 8, max_wait=0, clock=clock)
    scheduler.submit(0, 1)
    scheduler.submit(1, 1)
    assert requests(scheduler.poll()) == [(0, 1)]


def test_cancelled_requests_leave_their_bin_and_their_batch(clock):
    scheduler = MultiBinScheduler(None, 2, clock=clock)
    first, second = scheduler.submit("a", 1), None
    assert scheduler.cancel(first)
    assert scheduler.waiting() == (0,)
    second = scheduler.submit("b", 1)
    assert scheduler.poll() == []  # the cancelled one does not fill the batch
    third = scheduler.submit("c", 1)
    assert second.cancel()  # formed, not yet handed over
    (batch,) = scheduler.poll()
    assert batch.requests == ("c",)
    started = batch.start()
    assert started.requests == ("c",)
    assert not scheduler.cancel(third)
    started.futures[0].set_result(3)
    assert third.result() == 3
    with pytest.raises(CancelledError):
        first.result()


def test_start_drops_what_was_cancelled_after_the_batch_was_handed_over(clock):
    scheduler = MultiBinScheduler(None, 3, clock=clock)
    futures = [scheduler.submit(i, 1) for i in range(3)]
    (batch,) = scheduler.poll()
    futures[1].cancel()
    assert batch.start().requests == (0, 2)


def test_a_batch_of_cancelled_requests_only_is_not_handed_over(clock):
    scheduler = MultiBinScheduler(None, 2, clock=clock)
    for future in [scheduler.submit(i, 1) for i in range(2)]:
        future.cancel()
    assert scheduler.poll() == []


def test_on_batch_gets_every_batch_instead_of_poll(clock):
    got = []
    scheduler = MultiBinScheduler([0, 1, 2], 2, max_wait=1, clock=clock, on_batch=got.append)
    for i in range(3):
        scheduler.submit(i, 0.5)
    assert requests(got) == [(0, 1)]
    assert scheduler.poll(102.0) == []
    assert requests(got) == [(0, 1), (2,)]
    scheduler.submit(3, 1.5)
    assert scheduler.flush() == []
    assert requests(got)[-1] == (3,)


def test_on_batch_may_submit_again(clock):
    got = []

    def again(batch):
        got.append(batch.requests)
        if len(got) < 3:
            scheduler.submit(len(got), 1)

    scheduler = MultiBinScheduler(None, 1, clock=clock, on_batch=again)
    scheduler.submit(0, 1)
    assert got == [(0,), (1,), (2,)]


def test_what_on_batch_raises_reaches_the_futures_of_that_batch_only(clock):
    def broken(batch):
        if 1 in batch.requests:
            raise RuntimeError("no room")
        batch.futures[0].set_result("fine")

    scheduler = MultiBinScheduler(None, 1, clock=clock, on_batch=broken)
    bad, good = scheduler.submit(1, 1), scheduler.submit(2, 1)
    assert good.result(0) == "fine"
    with pytest.raises(RuntimeError, match="no room"):
        bad.result(0)


def test_new_edges_move_waiting_requests_in_order_of_arrival(clock):
    scheduler = MultiBinScheduler(None, 3, max_wait=1, clock=clock)
    for i, length in enumerate([1, 9]):
        clock.now = 100.0 + i / 10
        scheduler.submit(i, length)
    scheduler.rebin([0, 5, 10])
    assert scheduler.waiting() == (1, 1)
    assert scheduler.next_deadline() == 101.0
    scheduler.submit(2, 8)
    scheduler.rebin([0, 10])  # one bin again: it is full
    assert requests(scheduler.poll(100.5)) == [(0, 1, 2)]


def test_many_threads_lose_nothing_and_double_nothing():
    seen, lock = [], threading.Lock()
    scheduler = MultiBinScheduler([0, 10, 20, 30], 4, max_wait=0.001)

    def producer(start):
        for i in range(start, start + 200):
            future = scheduler.submit(i, i % 30)
            if i % 7 == 0:
                future.cancel()

    def consumer(stop):
        while not stop.is_set() or any(scheduler.waiting()):
            for batch in scheduler.poll():
                with lock:
                    seen.extend(batch.start().requests)

    stop = threading.Event()
    consumers = [threading.Thread(target=consumer, args=(stop,)) for _ in range(2)]
    producers = [threading.Thread(target=producer, args=(1000 * i,)) for i in range(8)]
    for thread in consumers + producers:
        thread.start()
    for thread in producers:
        thread.join()
    stop.set()
    for thread in consumers:
        thread.join()
    assert len(seen) == len(set(seen))
    # A cancelled request may have left before it was cancelled; every other one must be there.
    sent = {1000 * i + j for i in range(8) for j in range(200)}
    assert {i for i in sent if i % 7} <= set(seen) <= sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"edges": [0, 5, 5]}, "edges is"),
        ({"edges": [5, 0]}, "strictly increasing"),
        ({"edges": [0, math.nan]}, "edges is"),
        ({"edges": [1]}, "at least two edges"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_wait": -1}, "max_wait is -1"),
        ({"max_wait": math.nan}, "max_wait is nan"),
    ],
)
def test_wrong_settings_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        MultiBinScheduler(**arguments)


@pytest.mark.parametrize("length", [math.nan, math.inf, -1.0])
def test_a_prediction_that_is_no_length_is_refused(length):
    scheduler = MultiBinScheduler([0, 1, 2], 2)
    with pytest.raises(InputError, match="predicted_length"):
        scheduler.submit("a", length)
    assert scheduler.waiting() == (0, 0)
