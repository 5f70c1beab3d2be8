"""A gateway that is killed while commands are under way loses none, and gives none twice without saying so."""

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest

from devices.commands import State
from protocols.mqtt.codec.packets import PubAck, Publish
from tests.integration.devices.conftest import Gateway
from tests.integration.mqtt.raw_client import RawClient
from tests.support.fleet import FleetDevice, add_devices
from tests.support.serving import Serving
from tests.support.waiting import DEADLINE_S

COMMANDS = 100
"""As many as may wait for a device."""
MAKE = f"""
from devices.commands import create
from devices.models import Device
device = Device.objects.get(name="device")
for number in range({COMMANDS}):
    create(device, "step", number, one_way=True)
"""


class Target:
    """A device that takes commands until its gateway dies."""

    def __init__(self, device: FleetDevice) -> None:
        self._device = device
        self.taken: list[tuple[int, bool]] = []
        """Which, and whether it was marked as one that may have come before."""

    async def run(self, serving: Serving, most: int) -> None:
        """Takes commands of a gateway until there were `most` of them, or it ends."""
        client = await RawClient.open(("127.0.0.1", serving.port("mqtt")), 4)
        try:
            assert (await client.connect("sensor", username=self._device.token)).reason_code == 0
            assert await client.subscribe("v1/devices/me/rpc/request/+", 1) == 1
            while len(self.taken) < most:
                packet = await client.receive()
                assert isinstance(packet, Publish)
                content = json.loads(packet.payload)
                self.taken.append((content["params"], content.get("redelivered", False)))
                client.send(PubAck(packet.packet_id))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            client.abort()


@pytest.mark.parametrize("acknowledged", [5, 47])
async def test_a_gateway_that_is_killed_loses_no_command(tmp_path: Path, acknowledged: int) -> None:
    serving = Serving(tmp_path).ready()
    try:
        [device] = add_devices(serving, "device")
        serving.command("manage", "shell", "--command", MAKE)
        target = Target(device)
        await target.run(serving, acknowledged)
    finally:
        serving.kill()

    again = Serving(tmp_path).ready()
    try:
        gateway = Gateway(again)
        query = "SELECT state, count(*) FROM gateway_devices_command GROUP BY state"
        running = asyncio.create_task(target.run(again, 10 * COMMANDS))
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while (states := dict(gateway.query(query))) != {State.DELIVERED.value: COMMANDS}:
            assert asyncio.get_running_loop().time() < end, states
            await asyncio.sleep(0.1)
        running.cancel()
    finally:
        again.kill()

    times = Counter(number for number, _ in target.taken)
    assert sorted(times) == list(range(COMMANDS))
    seen: set[int] = set()
    for number, redelivered in target.taken:
        assert redelivered or number not in seen, number
        seen.add(number)
