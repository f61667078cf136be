"""The model thread: what it takes together, what it forgets, how it stops."""

import threading
import time

import pytest

from skdinoad.serve._worker import Worker


class Held:
    """Answers with squares, once it may go on; keeps the batches that it was given."""

    def __init__(self, at_once=3):
        self.free, self.busy = threading.Event(), threading.Event()
        self.batches, self.noted = [], []
        self.worker = Worker(self.answer, self.note, at_once)
        self.worker.start()

    def answer(self, requests):
        self.batches.append(requests)
        self.busy.set()
        assert self.free.wait(10)
        if "bug" in requests:
            raise RuntimeError("a bug")
        return [ValueError("odd") if x == "odd" else x * x for x in requests]

    def note(self, requests, answers):
        self.noted += requests
        if 5 in requests:
            raise RuntimeError("a full disk")


@pytest.fixture
def held():
    held = Held()
    yield held
    held.free.set()
    held.worker.close()


def test_what_waits_is_answered_together_and_in_order(held):
    first = held.worker.submit(1)
    assert held.busy.wait(10)
    others = [held.worker.submit(x) for x in (2, 3, 4, 5)]
    assert held.worker.waiting == 4
    held.free.set()
    assert [future.result(10) for future in (first, *others)] == [1, 4, 9, 16, 25]
    assert held.batches == [[1], [2, 3, 4], [5]]


def test_what_nobody_waits_for_is_forgotten_unless_it_is_begun(held):
    first = held.worker.submit(1)
    assert held.busy.wait(10)
    second, third = held.worker.submit(2), held.worker.submit(3)
    held.worker.drop(second)
    held.worker.drop(first)
    held.free.set()
    assert (first.result(10), third.result(10)) == (1, 9)
    assert held.batches == [[1], [3]]
    assert not second.done()


def test_errors_are_those_of_their_request_and_stop_nothing(held, caplog):
    held.free.set()
    with pytest.raises(ValueError, match="odd"):
        held.worker.submit("odd").result(10)
    with pytest.raises(RuntimeError, match="a bug"):
        held.worker.submit("bug").result(10)
    assert held.worker.submit(5).result(10) == 25  # and noting it fails
    assert held.worker.submit(6).result(10) == 36
    assert held.worker.alive
    held.worker.close()
    assert "could not be recorded" in caplog.text
    assert held.noted == ["odd", "bug", 5, 6]


def test_closing_answers_what_waits_and_takes_nothing_more(held):
    first = held.worker.submit(1)
    assert held.busy.wait(10)
    second = held.worker.submit(2)
    closing = threading.Thread(target=held.worker.close)
    closing.start()
    while held.worker.alive:
        time.sleep(0.01)
    with pytest.raises(RuntimeError, match="stopping"):
        held.worker.submit(3)
    assert not second.done()
    held.free.set()
    closing.join(10)
    assert (first.result(0), second.result(0)) == (1, 4)
