"""The model thread, which answers waiting requests in batches."""

import logging
import threading
from concurrent.futures import Future
from typing import Any

__all__ = ["Worker"]

_log = logging.getLogger("skdinoad.serve")


class Worker:
    """Thread that answers requests in the order of their arrival.

    Whenever it is free it takes up to ``at_once`` waiting requests as one batch. A
    single request is answered at once.

    Parameters
    ----------
    answer : callable
        Maps a list of requests to a list of answers; an answer that is an exception is
        raised by its future.
    note : callable
        Called with (requests, answers) after the answers were sent.
    at_once : int
        Largest batch.
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
        """Reject new requests, answer the waiting ones and stop the thread."""
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
        """Queue a request and return the future of its answer."""
        future = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the server is stopping.")
            self._waiting[future] = request
            self._changed.notify()
        return future

    def drop(self, future):
        """Remove an abandoned request from the queue, unless it is being answered."""
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
        """Return the next batch as {future: request}; empty after closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            taken = list(self._waiting)[: self._at_once]
            for future in taken:  # cannot be cancelled any more
                future.set_running_or_notify_cancel()
            return {future: self._waiting.pop(future) for future in taken}

    def _answers(self, requests):
        try:
            return self._answer(requests)
        except BaseException as error:  # otherwise clients would wait forever
            return [error] * len(requests)

    def _tell(self, requests, answers):
        try:
            self._note(requests, answers)
        except Exception:
            _log.exception("The results could not be recorded for the status page.")
