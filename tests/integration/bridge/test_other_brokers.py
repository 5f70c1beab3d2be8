"""A broker upstream that asks for credentials, and one that is not Mosquitto."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from amqtt.broker import Broker

from protocols.bridge.options import BridgeOptions
from tests.integration.bridge.conftest import Application_, Connect, Gateway, OpenGateway, options
from tests.support.certificates import self_signed
from tests.support.mosquitto import Mosquitto
from tests.support.ports import free_port
from tests.support.waiting import until


class TestCredentials:
    @pytest.fixture
    def upstream(self, tmp_path: Path) -> Iterator[Mosquitto]:
        """It wants TLS, a client certificate, a user name and a password."""
        server, client = (self_signed(tmp_path / f"{name}.pem", name) for name in ("server", "client"))
        passwords = tmp_path / "passwords"
        passwords.write_text("gateway:secret\n")
        subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, timeout=60)
        passwords.chmod(0o600)
        secured = (f"certfile {server}", f"keyfile {server}", f"cafile {client}", "require_certificate true")
        broker = Mosquitto(tmp_path / "upstream", *secured, f"password_file {passwords}", anonymous=False)
        yield broker.start()
        broker.stop()

    @pytest.fixture
    def credentials(self, tmp_path: Path, upstream: Mosquitto) -> dict[str, Any]:
        password = tmp_path / "password"
        password.write_text("secret\n")
        return {
            "url": f"mqtts://localhost:{upstream.port}",
            "ca_file": tmp_path / "server.pem",
            "certfile": tmp_path / "client.pem",
            "username": "gateway",
            "password_file": password,
        }

    async def test_certificates_and_a_password_let_the_bridge_in(
        self, open_gateway: OpenGateway, application: Application_, credentials: dict[str, Any]
    ) -> None:
        await (await open_gateway(**credentials)).connected()

        assert [scope["scheme"] for scope in application.scopes] == ["mqtts"]
        # More than one TLS record at a time, and more than one message in a record.
        assert application.send_to_bridge is not None
        for number in range(200):
            message = {"topic": f"site/{number}/telemetry", "payload": b"x" * 1_000, "qos": 1}
            await application.send_to_bridge({"type": "mqtt.publish", **message})

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"ca_file": None}, "certificate verify failed"),
            ({"certfile": None}, "the connection is lost"),
            ({"password_file": None}, "Not authorized"),
            ({"password_file": Path("absent")}, "cannot use its credentials"),
            ({"password_file": None, "password_env": "ABSENT_PASSWORD"}, "the environment has no ABSENT_PASSWORD"),
            ({"url": "mqtts://localhost:1"}, "cannot connect"),
        ],
    )
    async def test_what_is_wrong_is_in_the_log_and_no_secret(
        self,
        open_gateway: OpenGateway,
        credentials: dict[str, Any],
        caplog: pytest.LogCaptureFixture,
        wrong: dict[str, Any],
        said: str,
    ) -> None:
        gateway = await open_gateway(**{**credentials, **wrong})

        await until(lambda: caplog.messages, "a line in the log")

        assert said in caplog.messages[0]
        assert "bridge upstream: mqtts://localhost:" in caplog.messages[0]
        assert "next attempt in" in caplog.messages[0]
        assert "secret" not in caplog.text
        assert gateway.status() == "not connected"


class TestAmqtt:
    """amqtt's broker: MQTT 3.1.1 and nothing else."""

    @pytest.fixture
    async def port(self) -> AsyncIterator[int]:
        port = free_port()
        broker = Broker(
            {
                "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
                "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
            }
        )
        await broker.start()
        yield port
        await broker.shutdown()

    async def test_messages_go_both_ways(
        self, port: int, upstream: Mosquitto, application: Application_, connect: Connect
    ) -> None:
        bridge: BridgeOptions = options(upstream, url=f"mqtt://127.0.0.1:{port}", mqtt_version="3.1.1")
        gateway = await Gateway(application, {}, [bridge]).start()
        try:
            await gateway.connected()
            field = await connect(("127.0.0.1", port), "field", 4)
            await field.subscribe("from/#", 1)
            here = await connect(gateway.address, "here", 4)

            await field.publish("site/d/telemetry", json.dumps({"t": 1}).encode(), 1)
            await here.publish("out/x", b"up", 1)

            await until(lambda: application.publishes, "the message from upstream")
            assert application.publishes[0]["topic"] == "in/d"
            message = await field.message()
            assert (message.topic, message.payload) == ("from/out/x", b"up")
        finally:
            await gateway.stop()
            await asyncio.sleep(0)
