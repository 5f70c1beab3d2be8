"""A fleet that sends: how fast, with which faults, with which storms."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Final

from devices.simulation.client import BROKEN, NO_TOPIC, TELEMETRY, SimulatedDevice
from devices.simulation.tally import Tally

TICK_S: Final = 0.01
DRAIN_S: Final = 5.0
"""How long what is under way at the end may take."""

FAULTS: Final[Mapping[str, Callable[[SimulatedDevice], None]]] = {
    "payload": lambda device: device.send(TELEMETRY, BROKEN),
    "topic": lambda device: device.send(NO_TOPIC, b"{}"),
    "cut": SimulatedDevice.cut,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a simulation does."""

    messages_per_s: float
    faults: Mapping[str, float]
    """Percent of the messages in whose place a fault of FAULTS is made."""
    storm_every_s: float | None = None
    for_s: float | None = None


async def simulate(
    plan: Plan,
    devices: Sequence[tuple[str, str]],
    address: tuple[str, int],
    tally: Tally,
    *,
    stop: asyncio.Event,
    progress: Callable[[], None],
) -> None:
    """Runs a fleet of devices, given by name and token, until `stop` is set or the time is over, and a moment longer
    for what is under way. `progress` is called once a second."""
    fleet = [SimulatedDevice(name, token, address, tally) for name, token in devices]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(device.run()) for device in fleet]
        working = [tasks.create_task(_send(plan, fleet, tally)), tasks.create_task(_every(1.0, progress))]
        if plan.storm_every_s is not None:
            working.append(tasks.create_task(_every(plan.storm_every_s, partial(_storm, fleet))))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan.for_s):
                await stop.wait()
        for task in working:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while any(device.inflight for device in fleet):  # noqa: ASYNC110  an event would cost each message
                    await asyncio.sleep(TICK_S)
        for task in running:
            task.cancel()
    for device in fleet:
        device.leave()


def _storm(fleet: Sequence[SimulatedDevice]) -> None:
    for device in fleet:
        device.cut()


async def _every(seconds: float, act: Callable[[], object]) -> None:
    while True:
        await asyncio.sleep(seconds)
        act()


async def _send(plan: Plan, fleet: Sequence[SimulatedDevice], tally: Tally) -> None:
    """Sends at the rate of the plan, in turn from each device. What could not be sent is not made up for."""
    loop = asyncio.get_running_loop()
    turns = cycle(fleet)
    kinds, weights = [*FAULTS], [plan.faults.get(kind, 0.0) for kind in FAULTS]
    due_at = loop.time()
    while True:
        await asyncio.sleep(TICK_S)
        due_at = max(due_at, loop.time() - 1)
        while due_at <= loop.time():
            due_at += 1 / plan.messages_per_s
            device = next(turns)
            if not device.has_room:
                tally.not_sent += 1
            elif random.uniform(0, 100) < sum(weights):  # noqa: S311  no secret
                FAULTS[random.choices(kinds, weights)[0]](device)  # noqa: S311  no secret
            else:
                device.send_reading()
