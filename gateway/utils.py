"""`await_many_dispatch` of Channels, for code that reads several sources as its consumers do."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

from protocols.asgi import Event


async def await_many_dispatch(
    consumer_callables: Sequence[Callable[[], Awaitable[Event]]], dispatch: Callable[[Event], Awaitable[Any]]
) -> NoReturn:
    """Awaits all `consumer_callables`, each again and again, and `dispatch` with each result, one after the other.

    Ends when one of them raises, or when cancelled. Consumers here do not use it; for work beside its handlers a
    consumer has `spawn`.
    """
    waiting = {asyncio.ensure_future(source()): source for source in consumer_callables}
    try:
        while True:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task in done]:
                await dispatch(task.result())
                source = waiting.pop(task)
                waiting[asyncio.ensure_future(source())] = source
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
