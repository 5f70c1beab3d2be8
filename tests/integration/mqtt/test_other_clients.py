"""Programs that nobody here wrote: Mosquitto's command-line clients and amqtt's client, against this server."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from amqtt.client import MQTTClient

from protocols.asgi import Receive, Scope, Send
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import Address, Serve
from tests.support.waiting import DEADLINE_S, until

VERSIONS = ["mqttv31", "mqttv311", "mqttv5"]


async def run(program: str, address: Address, *arguments: str) -> tuple[int | None, str, str]:
    """Runs a Mosquitto client to its end: exit code, standard output, standard error."""
    path = shutil.which(program)
    assert path is not None, f"{program} is not installed (Debian: mosquitto-clients)"
    process = await asyncio.create_subprocess_exec(
        path,
        "-h",
        address[0],
        "-p",
        str(address[1]),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode(), err.decode()


class TestMosquitto:
    @pytest.mark.parametrize("version", VERSIONS)
    @pytest.mark.parametrize("qos", ["0", "1", "2"])
    async def test_a_message_goes_from_mosquitto_pub_to_mosquitto_sub(
        self, address: Address, application: AcceptEverything, version: str, qos: str
    ) -> None:
        common = ("-V", version, "-q", qos)
        subscriber = asyncio.create_task(
            run("mosquitto_sub", address, *common, "-i", "sub", "-t", "a/#", "-C", "2", "-F", "%t %q %p")
        )
        await until(lambda: application.seen("mqtt.subscribe", "sub"), "the subscription")

        for payload in ("one", "two"):
            code, _, err = await run("mosquitto_pub", address, *common, "-t", "a/b", "-m", payload)
            assert (code, err) == (0, "")

        assert await subscriber == (0, f"a/b {qos} one\na/b {qos} two\n", "")

    async def test_a_retained_message_is_there_for_mosquitto_sub(self, address: Address) -> None:
        await run("mosquitto_pub", address, "-t", "a", "-m", "kept", "-r", "-q", "1")

        assert await run("mosquitto_sub", address, "-t", "#", "-C", "1", "-F", "%r %p") == (0, "1 kept\n", "")

    async def test_a_large_message_passes(self, address: Address, application: AcceptEverything) -> None:
        subscriber = asyncio.create_task(run("mosquitto_sub", address, "-i", "sub", "-t", "a", "-C", "1"))
        await until(lambda: application.seen("mqtt.subscribe", "sub"), "the subscription")

        await run("mosquitto_pub", address, "-t", "a", "-q", "1", "-m", "x" * 100_000)

        code, out, _ = await subscriber
        assert code == 0
        assert out == "x" * 100_000 + "\n"

    @pytest.mark.parametrize(
        ("version", "exit_code", "message"),
        [("mqttv311", 5, "Connection error: Connection Refused: not authorised."), ("mqttv5", 135, "Not authorized")],
    )
    async def test_a_refused_client_says_that_it_is_not_authorised(
        self, serve: Serve, version: str, exit_code: int, message: str
    ) -> None:
        async def reject(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send({"type": "mqtt.reject", "reason_code": 0x87})
            await receive()

        arguments = ("-V", version, "-u", "user", "-P", "wrong", "-t", "a", "-m", "x")

        code, _, err = await run("mosquitto_pub", await serve(reject), *arguments)

        assert code == exit_code
        assert message in err

    async def test_a_request_and_its_response_find_each_other(
        self, address: Address, application: AcceptEverything
    ) -> None:
        """mosquitto_rr: response topic and correlation data [MQTT5-4.10]."""
        responder = asyncio.create_task(
            run("mosquitto_sub", address, "-V", "mqttv5", "-i", "sub", "-t", "ask", "-C", "1", "-F", "%R %D %p")
        )
        await until(lambda: application.seen("mqtt.subscribe", "sub"), "the subscription")
        requester = asyncio.create_task(
            run("mosquitto_rr", address, "-i", "rr", "-t", "ask", "-e", "answer/1", "-m", "question", "-W", "5")
        )

        assert await responder == (0, "answer/1  question\n", "")
        await run("mosquitto_pub", address, "-t", "answer/1", "-m", "42")

        assert await requester == (0, "42\n", "")

    async def test_the_will_of_a_mosquitto_sub_that_is_killed_is_published(
        self, address: Address, application: AcceptEverything
    ) -> None:
        path = shutil.which("mosquitto_sub")
        assert path is not None
        arguments = ("-p", str(address[1]), "-i", "dying", "-t", "x", "--will-topic", "gone", "--will-payload", "dying")
        dying = await asyncio.create_subprocess_exec(path, *arguments)
        watcher = asyncio.create_task(run("mosquitto_sub", address, "-i", "watcher", "-t", "gone", "-C", "1"))
        for client_id in ("dying", "watcher"):
            await until(lambda client_id=client_id: application.seen("mqtt.subscribe", client_id), "the subscription")

        dying.kill()
        await dying.wait()

        assert await watcher == (0, "dying\n", "")


@pytest.fixture
async def amqtt_client(address: Address) -> AsyncIterator[MQTTClient]:
    client = MQTTClient("amqtt", config={"auto_reconnect": False})
    await client.connect(f"mqtt://{address[0]}:{address[1]}/")
    yield client
    await client.disconnect()


class TestAmqtt:
    @pytest.mark.parametrize("qos", [0, 1, 2])
    async def test_a_message_goes_both_ways(self, amqtt_client: Any, qos: int) -> None:
        assert await amqtt_client.subscribe([("a/+", qos)]) == [qos]

        await amqtt_client.publish("a/b", b"21.5", qos)

        message = await amqtt_client.deliver_message(timeout_duration=DEADLINE_S)
        assert (message.topic, bytes(message.data), message.qos) == ("a/b", b"21.5", qos)

    @pytest.mark.mqtt("MQTT3-3.12.4-1")
    async def test_unsubscribing_and_pinging_are_answered(self, amqtt_client: Any) -> None:
        await amqtt_client.subscribe([("a", 0), ("b", 1)])
        await amqtt_client.unsubscribe(["a"])
        await amqtt_client.ping()

        await amqtt_client.publish("a", b"no", 0)
        await amqtt_client.publish("b", b"yes", 1)

        message = await amqtt_client.deliver_message(timeout_duration=DEADLINE_S)
        assert message.topic == "b"
