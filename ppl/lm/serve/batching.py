"""One thread that computes, on what arrived together."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple


class _Job(NamedTuple):
    group: Hashable
    items: Sequence[Any]
    result: Future


class Batcher:
    """Runs `run(group, items)`, a list of results, on items of one group that came within `wait` seconds.

    A request's items stay together, and at most `most` items are run at once unless one request has more. A batch that
    is refused (`ValueError`) is run again request by request, so that a bad one fails alone.
    """

    def __init__(self, run: Callable[[Hashable, Sequence[Any]], Sequence[Any]], *, wait: float, most: int):
        self._run, self._wait, self._most = run, wait, most
        self._arrivals: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()  # None: the end
        self._waiting: deque[_Job] = deque()
        self._thread = threading.Thread(target=self._loop, name="ppl-serve-model", daemon=True)
        self._thread.start()

    def submit(self, group: Hashable, items: Sequence[Any]) -> list[Any]:
        """The results of `items`, when they are there. **Raises:** what `run` raised."""
        job = _Job(group, list(items), Future())
        self._arrivals.put(job)
        return job.result.result()

    def close(self) -> None:
        """End the thread after the batch that it runs; who waits gets a `RuntimeError`."""
        self._arrivals.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while True:
            if not self._waiting:
                first = self._arrivals.get()
                if first is None:
                    return self._refuse_all()
                self._waiting.append(first)
            if self._drain():
                return self._refuse_all()
            self._run_batch(self._next_batch())

    def _drain(self) -> bool:
        """Take what has arrived, and what still does within the time; returns whether that was the end."""
        end = time.monotonic() + self._wait
        while True:
            try:
                job = self._arrivals.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return False
            if job is None:
                return True
            self._waiting.append(job)
            if sum(len(waiting.items) for waiting in self._waiting) >= self._most:
                return False

    def _next_batch(self) -> list[_Job]:
        """The job that waits longest, and those behind it that go with it."""
        batch, rest = [self._waiting.popleft()], deque()
        size = len(batch[0].items)
        for job in self._waiting:
            if job.group == batch[0].group and size + len(job.items) <= self._most:
                batch.append(job)
                size += len(job.items)
            else:
                rest.append(job)
        self._waiting = rest
        return batch

    def _run_batch(self, batch: Sequence[_Job]) -> None:
        try:
            results = list(self._run(batch[0].group, [item for job in batch for item in job.items]))
        except BaseException as error:  # it belongs to who asked, and the next batch is another's
            if len(batch) > 1 and isinstance(error, ValueError):
                for job in batch:
                    self._run_batch([job])
                return
            for job in batch:
                job.result.set_exception(error)
            return
        for job in batch:
            part, results = results[: len(job.items)], results[len(job.items) :]
            job.result.set_result(part)

    def _refuse_all(self) -> None:
        while self._waiting:
            self._waiting.popleft().result.set_exception(RuntimeError("the server is closing"))
