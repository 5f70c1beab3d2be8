"""MQTT.js, the client of Node and of browsers, over TCP and over WebSocket; fetched by npm, a pinned version."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.clients.conftest import TELEMETRY, Gateway
from tests.support.fleet import FleetDevice
from tests.support.waiting import DEADLINE_S

SCRIPT = Path(__file__).with_name("mqtt_js_client.mjs")


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("version", [3, 4, 5])
async def test_mqtt_js_publishes_subscribes_and_is_a_device(
    gateway: Gateway, device: FleetDevice, unique: Callable[[str], str], mqtt_js: Path, version: int, scheme: str
) -> None:
    url = f"mqtt://{gateway.host}:{gateway.port}" if scheme == "mqtt" else gateway.websocket
    # The package of Node, not that of browsers: by its file, as it is not installed beside the script.
    module = mqtt_js / "build" / "index.js"
    command = ["node", SCRIPT, module, url, str(version), unique("t"), device.token, TELEMETRY]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise

    assert process.returncode == 0, err.decode()
    printed = json.loads(out)
    assert printed["received"] == [[unique("t"), str(qos), qos] for qos in (0, 1, 2)]
    assert "Not authorized" in printed["refusal"] or "Bad User Name or Password" in printed["refusal"]
    assert await gateway.stored(device) == [21.5]
