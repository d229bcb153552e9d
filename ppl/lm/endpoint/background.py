"""An event loop in a thread of its own, so that blocking calls work where a loop runs already (a notebook)."""

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_GOODBYE = 5.0  # seconds that closing connections may take


class Background:
    """Runs coroutines for blocking callers, several at a time; the thread starts at the first and ends with `close`.

    One loop for all calls, and not one for each: connections stay open from call to call, and one semaphore bounds
    what several threads ask for at once.
    """

    def __init__(self, farewell: Callable[[], Awaitable[None]]):
        self._farewell = farewell  # run in the loop when it ends
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0
        self._end: Callable[[], Any] = lambda: None

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result; an interrupt cancels it."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """End the thread; the next `run` starts another."""
        with self._lock:
            self._end()
            self._loop = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._process != os.getpid():  # a fork has no threads but its own
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=_serve, args=(loop, self._farewell), name="ppl-endpoint", daemon=True)
                thread.start()
                self._loop, self._process = loop, os.getpid()
                self._end = weakref.finalize(self, _stop, loop, thread, self._process)  # at exit, too
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop, farewell: Callable[[], Awaitable[None]]) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(asyncio.ensure_future(farewell(), loop=loop))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, process: int) -> None:
    if process == os.getpid() and thread.is_alive():
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():  # the last reference may go inside of the loop
            thread.join(_GOODBYE)
