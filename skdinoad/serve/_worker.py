"""One thread that owns the model, and takes what waits as one batch."""

import logging
import threading
from concurrent.futures import Future
from typing import Any

__all__ = ["Worker"]

_log = logging.getLogger("skdinoad.serve")


class Worker:
    """A thread that answers requests in the order in which they came.

    Whenever it is free it takes all that wait, up to ``at_once``: one request is
    answered without delay, many are answered together.

    Parameters
    ----------
    answer : callable
        list of requests -> list of answers; an answer that is an exception is raised
        by its future.
    note : callable
        (requests, answers), called once the answers are out.
    at_once : int
    """

    def __init__(self, answer, note, at_once):
        self._answer, self._note, self._at_once = answer, note, at_once
        self._waiting, self._changed = {}, threading.Condition()  # future -> request
        self._closed, self._thread = True, None

    def start(self):
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="skdinoad-model")
        self._thread.start()

    def close(self):
        """Answer what waits, take nothing more, and return when that is done."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self):
        return not self._closed and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def submit(self, request: Any) -> Future:
        """Let a request wait; return the future of its answer."""
        future = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping.")
            self._waiting[future] = request
            self._changed.notify()
        return future

    def drop(self, future):
        """Forget a request nobody waits for any more, unless it is being answered."""
        with self._changed:
            self._waiting.pop(future, None)

    def _work(self):
        while batch := self._next():
            requests = list(batch.values())
            answers = self._answers(requests)
            for future, answer in zip(batch, answers):
                if isinstance(answer, BaseException):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
            self._tell(requests, answers)

    def _next(self):
        """Return what waits as {future: request}; nothing once all is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken = list(self._waiting)[: self._at_once]
            for future in taken:  # from here on nobody can cancel it
                future.set_running_or_notify_cancel()
            return {future: self._waiting.pop(future) for future in taken}

    def _answers(self, requests):
        try:
            return self._answer(requests)
        except BaseException as error:  # or they would wait for ever
            return [error] * len(requests)

    def _tell(self, requests, answers):
        try:
            self._note(requests, answers)
        except Exception:
            _log.exception("What was scored could not be noted for the page.")
