"""Waiting for what another task, thread or process does: on conditions, never for a time that should be enough."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

DEADLINE_S = 60.0
"""How long anything may take before a test gives it up; nothing waits that long when all is well."""
PASSES = 100
"""How often a condition is looked at in each iteration of the loop: tasks of the same loop need no more."""
INTERVAL_S = 0.01
"""And how often afterwards, when it waits for a thread or a process."""


async def until(condition: Callable[[], object], what: str = "what the test waits for") -> None:
    """Returns when the condition holds. Raises AssertionError, saying `what` was awaited, after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    passes = 0
    while not condition():
        assert loop.time() < end, f"not within {DEADLINE_S:g} s: {what}"
        passes += 1
        await asyncio.sleep(0 if passes < PASSES else INTERVAL_S)


def wait_until(condition: Callable[[], T], what: str = "what the test waits for") -> T:
    """As `until`, where there is no loop. Returns what the condition has given, which is true."""
    end = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(INTERVAL_S)
    return result


async def time_passes(seconds: float) -> None:
    """Returns when that time has passed: for what the specification says happens, or does not happen, then."""
    await asyncio.sleep(seconds)
