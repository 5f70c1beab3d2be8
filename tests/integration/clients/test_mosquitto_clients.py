"""Mosquitto's command-line clients against `gateway serve`."""

import asyncio
from collections.abc import Callable

import pytest

from tests.integration.clients.conftest import TELEMETRY, Gateway
from tests.integration.mqtt.test_other_clients import VERSIONS, run
from tests.support.fleet import FleetDevice


async def published_until(answered: "asyncio.Task[tuple[int | None, str, str]]", *publish: str, to: Gateway) -> str:
    """Publishes again and again, for a subscriber that may still be on its way; what it has printed."""
    while not answered.done():
        code, _, err = await run("mosquitto_pub", (to.host, to.port), *publish)
        assert (code, err) == (0, "")
        await asyncio.wait([answered], timeout=0.2)
    code, out, err = answered.result()
    assert (code, err) == (0, "")
    return out


@pytest.mark.parametrize("version", VERSIONS)
class TestMosquitto:
    async def test_a_message_goes_from_pub_to_sub(
        self, gateway: Gateway, unique: Callable[[str], str], version: str
    ) -> None:
        common = ("-V", version, "-q", "2")
        arguments = (*common, "-t", unique("#"), "-C", "1", "-F", "%t %q %p")
        subscriber = asyncio.create_task(run("mosquitto_sub", (gateway.host, gateway.port), *arguments))

        out = await published_until(subscriber, *common, "-t", unique("t"), "-m", "21.5", to=gateway)

        assert out == f"{unique('t')} 2 21.5\n"

    async def test_pub_is_a_device(self, gateway: Gateway, device: FleetDevice, version: str) -> None:
        arguments = ("-V", version, "-q", "1", "-u", device.token, "-t", TELEMETRY, "-m", '{"temperature": 21.5}')

        assert await run("mosquitto_pub", (gateway.host, gateway.port), *arguments) == (0, "", "")
        assert await gateway.stored(device) == [21.5]


async def test_rr_has_its_response(gateway: Gateway, unique: Callable[[str], str]) -> None:
    request, response = unique("request"), unique("response")
    arguments = ("-t", request, "-e", response, "-m", "question", "-W", "60")
    requester = asyncio.create_task(run("mosquitto_rr", (gateway.host, gateway.port), *arguments))

    assert await published_until(requester, "-t", response, "-m", "42", "-q", "1", to=gateway) == "42\n"
