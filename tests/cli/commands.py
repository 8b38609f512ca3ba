"""Commands as they are typed, run inside the test's own process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def facts(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@contextmanager
def in_a_thread(serve: AbstractAsyncContextManager[Any]) -> Iterator[None]:
    """*serve* on an event loop of its own, since the commands have theirs."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(serve.__aenter__(), loop).result(10)
        try:
            yield
        finally:
            asyncio.run_coroutine_threadsafe(serve.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
