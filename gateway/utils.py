"""What Channels has under this name: for code that reads several sources as a consumer of Channels does."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

from protocols.asgi import Event


async def await_many_dispatch(
    consumer_callables: Sequence[Callable[[], Awaitable[Event]]], dispatch: Callable[[Event], Awaitable[Any]]
) -> NoReturn:
    """Awaits all `consumer_callables`, each again and again, and `dispatch` with each result, one after the other.

    Goes on until one of them raises, or it is cancelled. Consumers here do without; for background work beside a
    consumer's handlers there is its `spawn`.
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
