"""ThingsBoard's own SDK, unmodified, whose devices speak MQTT 5."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.clients.conftest import Gateway
from tests.support.fleet import FleetDevice
from tests.support.serving import clean_environment
from tests.support.waiting import DEADLINE_S

PROGRAM = Path(__file__).with_name("thingsboard_device.py")


class SdkDevice:
    """A program that uses the SDK, and what it prints."""

    def __init__(self, gateway: Gateway, sdk: Path, device: FleetDevice, *what: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, str(gateway.port), device.token, *what],
            env=clean_environment(PYTHONPATH=str(sdk)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def line(self) -> Any:
        """The next value that it prints."""
        assert self.process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            line = await asyncio.to_thread(self.process.stdout.readline)
        if not line:
            _, said = await asyncio.to_thread(self.process.communicate)
            raise AssertionError(said)
        return json.loads(line)

    async def end(self) -> None:
        """Waits until it has ended well."""
        _, said = await asyncio.to_thread(self.process.communicate, timeout=DEADLINE_S)
        assert self.process.returncode == 0, said


Run = Callable[..., SdkDevice]


@pytest.fixture
async def run(gateway: Gateway, thingsboard_sdk: Path, device: FleetDevice) -> AsyncIterator[Run]:
    started: list[SdkDevice] = []

    def start(*what: str) -> SdkDevice:
        started.append(SdkDevice(gateway, thingsboard_sdk, device, *what))
        return started[-1]

    yield start
    for program in started:
        program.process.kill()
        program.process.communicate()


def command(gateway: Gateway, *arguments: str) -> str:
    return gateway.serving.command(*arguments).stdout


async def test_telemetry_and_attributes_that_are_reported_are_stored(
    run: Run, gateway: Gateway, device: FleetDevice
) -> None:
    program = run("report")

    assert [await program.line() for _ in range(3)] == [True, True, True]
    await program.end()

    assert sorted(await gateway.stored(device)) == [False, 20.0, 21.5]
    assert '"1.0.3"' in command(gateway, "attribute", "get", device.name, "client")


async def test_the_limits_of_the_session_are_received(run: Run) -> None:
    program = run("limits")

    received, payload_bytes = await program.line()

    assert received
    assert payload_bytes > 100_000
    await program.end()


async def test_attributes_that_are_asked_for_are_received(run: Run, gateway: Gateway, device: FleetDevice) -> None:
    command(gateway, "attribute", "set", device.name, "shared", "interval=60")
    await run("report").end()
    program = run("request")

    assert await program.line() == [{"client": {"firmware": "1.0.3"}, "shared": {"interval": 60}}, None]
    await program.end()


async def test_changes_of_shared_attributes_are_received(run: Run, gateway: Gateway, device: FleetDevice) -> None:
    program = run("watch", "2")
    assert await program.line() == "watching"

    command(gateway, "attribute", "set", device.name, "shared", "interval=60")
    changed = await program.line()
    command(gateway, "attribute", "delete", device.name, "shared", "interval")

    assert [changed, await program.line()] == [{"interval": 60}, {"deleted": ["interval"]}]
    await program.end()


async def test_commands_are_obeyed_and_answered(run: Run, gateway: Gateway, device: FleetDevice) -> None:
    program = run("obey", "2")
    assert await program.line() == "obeying"

    answers = [
        await asyncio.to_thread(command, gateway, "command", "send", device.name, "set", str(number), "--wait", "60")
        for number in range(2)
    ]

    assert [json.loads(answer) for answer in answers] == [{"echo": 0}, {"echo": 1}]
    assert [await program.line() for _ in range(2)] == [{"method": "set", "params": number} for number in range(2)]
    await program.end()


@pytest.mark.parametrize(
    ("method", "answer"),
    [("openDoor", {"error": "there is no method 'openDoor'"})],
)
async def test_a_call_of_the_server_is_answered(run: Run, method: str, answer: Any) -> None:
    program = run("call", method)

    assert await program.line() == answer
    await program.end()


async def test_the_sdk_provisions_a_device(run: Run, gateway: Gateway) -> None:
    await asyncio.to_thread(command, gateway, "device", "add", "first of its type", "--type", "new", "--no-token")
    printed = await asyncio.to_thread(command, gateway, "device-type", "provisioning", "new", "--strategy", "create")
    key, secret = [line.split()[1] for line in printed.splitlines()]

    program = run("provision", str(gateway.port), key, secret)

    answer = await program.line()
    assert (answer["status"], len(answer["credentialsValue"])) == ("SUCCESS", 32)
    assert "token" in await asyncio.to_thread(command, gateway, "device", "show", "by the SDK")


async def test_a_gateway_speaks_for_a_device_behind_it(run: Run, gateway: Gateway, device: FleetDevice) -> None:
    allow = (
        "from devices.models import Device, DeviceType; DeviceType.objects.update(gateways_may_add=True);"
        f"Device.objects.filter(pk={device.pk}).update(is_gateway=True)"
    )
    command(gateway, "manage", "shell", "--command", allow)
    behind = f"behind {device.name}"
    program = run("speak_for", behind)

    assert [await program.line() for _ in range(3)] == [True, True, True]
    answer, error = await program.line()
    assert (answer["device"], error) == (behind, None)
    assert await program.line() is True
    await program.end()

    assert "temperature = 20" in command(gateway, "device", "show", behind)
    assert '"1.0.3"' in command(gateway, "attribute", "get", behind, "client")
