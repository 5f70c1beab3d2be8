"""Enhanced authentication with SCRAM-SHA-256: a consumer, a real server, and a client that proves its password."""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from pathlib import Path

import pytest

from gateway.exceptions import Reject
from gateway.generic.mqtt import AsyncMqttConsumer, MqttConsumer
from gateway.generic.mqtt_authentication import AuthMechanism
from gateway.mqtt.scram import METHOD, ScramCredentials, ScramServer
from protocols.mqtt.codec.packets import Auth, ConnAck, Connect, Packet, Properties, ReasonCode
from tests.integration.mqtt.fixture_types import OpenRaw, Serve
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import DEADLINE_S

CREDENTIALS = {name: ScramCredentials.of("pencil", iterations=4096) for name in ("thermo", "meter")}


async def find(name: str) -> ScramCredentials | None:
    return CREDENTIALS.get(name)


class Subject(AsyncMqttConsumer):
    async def begin_authentication(self, method: str) -> AuthMechanism | None:
        return ScramServer(find) if method == METHOD else None

    async def connect(self, password: bytes | None) -> None:
        if self.authenticated is None:
            raise Reject(0x87)
        assert password in (None, b"not looked at")
        self.unrestricted = True
        await self.accept(client_id=self.authenticated.identity)


class SyncSubject(MqttConsumer):
    def begin_authentication(self, method: str) -> AuthMechanism | None:
        assert threading.current_thread() is not threading.main_thread()
        return ScramServer(find) if method == METHOD else None

    def connect(self, password: bytes | None) -> None:
        if self.authenticated is None:
            raise Reject(0x87)
        assert password in (None, b"not looked at")
        self.unrestricted = True
        self.accept(client_id=self.authenticated.identity)


class Scram:
    """The client's side of one exchange."""

    def __init__(self, name: str, password: str = "pencil") -> None:
        self.password = password
        self.bare = f"n={name},r=abcdef"

    @property
    def first(self) -> Properties:
        return {"authentication_method": METHOD, "authentication_data": f"n,,{self.bare}".encode()}

    def final(self, challenge: Packet) -> Auth:
        assert isinstance(challenge, Auth), challenge
        assert challenge.reason_code == ReasonCode.CONTINUE_AUTHENTICATION
        assert challenge.properties["authentication_method"] == METHOD
        text = challenge.properties["authentication_data"].decode()
        values = dict(part.split("=", 1) for part in text.split(","))
        salt = base64.b64decode(values["s"])
        salted = hashlib.pbkdf2_hmac("sha256", self.password.encode(), salt, int(values["i"]))
        unproved = f"c=biws,r={values['r']}"
        message = f"{self.bare},{text},{unproved}".encode()
        key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(key).digest(), message, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(key, signature, strict=True))).decode()
        verifier = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), message, "sha256")
        self.expected = {
            "authentication_method": METHOD,
            "authentication_data": b"v=" + base64.b64encode(verifier),
        }
        return Auth(
            reason_code=ReasonCode.CONTINUE_AUTHENTICATION,
            properties={"authentication_method": METHOD, "authentication_data": f"{unproved},p={proof}".encode()},
        )


@pytest.fixture(params=[Subject, SyncSubject], ids=["async", "sync"])
async def client(request: pytest.FixtureRequest, serve: Serve, open_raw: OpenRaw) -> RawClient:
    return await open_raw(5, to=await serve(request.param.as_asgi()))


async def begin(client: RawClient, scram: Scram) -> None:
    client.send(
        Connect(version=5, client_id="c", username="u", password=b"not looked at", properties=dict(scram.first))
    )
    client.send(scram.final(await client.receive()))


async def again(client: RawClient, scram: Scram) -> None:
    client.send(Auth(reason_code=ReasonCode.REAUTHENTICATE, properties=scram.first))
    client.send(scram.final(await client.receive()))


class TestScram:
    @pytest.mark.mqtt("MQTT5-4.12.0-2", "MQTT5-4.12.0-5")
    async def test_a_client_proves_its_password_and_the_server_that_it_knows_it(self, client: RawClient) -> None:
        scram = Scram("thermo")

        await begin(client, scram)

        answer = await client.receive()
        assert isinstance(answer, ConnAck)
        assert answer.reason_code == 0
        assert {name: answer.properties[name] for name in scram.expected} == scram.expected

    @pytest.mark.parametrize("scram", [Scram("thermo", "pencils"), Scram("nobody")])
    async def test_a_wrong_password_or_name_is_refused(self, client: RawClient, scram: Scram) -> None:
        await begin(client, scram)

        answer = await client.receive()
        assert isinstance(answer, ConnAck)
        assert answer.reason_code == ReasonCode.NOT_AUTHORIZED
        assert answer.properties["reason_string"] == "SCRAM-SHA-256: another password, or nobody of this name"
        await client.expect_end()

    @pytest.mark.mqtt("MQTT5-4.12.1-1")
    async def test_later_once_more(self, client: RawClient) -> None:
        await begin(client, Scram("thermo"))
        await client.receive()
        scram = Scram("thermo")

        await again(client, scram)

        answer = await client.receive()
        assert isinstance(answer, Auth)
        assert answer.reason_code == ReasonCode.SUCCESS
        assert answer.properties == scram.expected
        await client.expect_nothing_more()

    @pytest.mark.parametrize("scram", [Scram("thermo", "pencils"), Scram("meter")], ids=["password", "name"])
    @pytest.mark.mqtt("MQTT5-4.12.1-2")
    async def test_failing_then_or_being_somebody_else_ends_the_connection(
        self, client: RawClient, scram: Scram
    ) -> None:
        await begin(client, Scram("thermo"))
        await client.receive()

        await again(client, scram)

        await client.expect_disconnect(ReasonCode.NOT_AUTHORIZED)

    async def test_without_a_method_the_consumer_decides(self, client: RawClient) -> None:
        assert (await client.connect("c")).reason_code == ReasonCode.NOT_AUTHORIZED

    @pytest.mark.parametrize("consumer", [AsyncMqttConsumer, MqttConsumer, Subject, SyncSubject])
    async def test_methods_that_a_consumer_does_not_know_are_refused(
        self, serve: Serve, open_raw: OpenRaw, consumer: type[AsyncMqttConsumer | MqttConsumer]
    ) -> None:
        client = await open_raw(5, to=await serve(consumer.as_asgi()))

        connack = await client.connect("c", properties={"authentication_method": "SCRAM-SHA-1"})

        assert connack.reason_code == ReasonCode.BAD_AUTHENTICATION_METHOD
        await client.expect_end()


@pytest.mark.parametrize(
    ("password", "printed"),
    [("pencil", {"connected": True, "proved": True}), ("pencils", {"connected": False, "code": 0x87})],
)
async def test_mqtt_js_does_so_too(serve: Serve, mqtt_js: Path, password: str, printed: dict[str, object]) -> None:
    """A client that others have written: what it and the server prove is not of one hand."""
    host, port = await serve(Subject.as_asgi())
    script = Path(__file__).with_name("scram_client.mjs")
    process = await asyncio.create_subprocess_exec(
        *("node", script, mqtt_js / "build" / "index.js", f"mqtt://{host}:{port}", "thermo", password),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(2 * DEADLINE_S):
            out, _ = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise

    assert json.loads(out) == printed
