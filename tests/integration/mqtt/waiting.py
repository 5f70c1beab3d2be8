"""Waiting on what another process or thread does: on conditions, never for a time that should be enough."""

import asyncio
from collections.abc import Callable

DEADLINE_S = 30.0
"""How long anything may take before a test gives it up; nothing waits that long when all is well."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Returns when the condition holds. Raises AssertionError, saying `what` was awaited, after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    while not condition():
        assert loop.time() < end, f"not within {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.005)


async def time_passes(seconds: float) -> None:
    """Returns when that time has passed: for what the specification says happens, or does not happen, then."""
    await asyncio.sleep(seconds)
