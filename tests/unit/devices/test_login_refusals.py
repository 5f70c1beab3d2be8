"""Every refusal of a login on every wire: what the peer sees, what the log says, what is counted."""

import asyncio
import dataclasses
import importlib
import json
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from asgiref.testing import ApplicationCommunicator
from django.db import OperationalError
from django.utils import timezone
from prometheus_client import REGISTRY

from devices import consumers, look_ups
from devices.client_certificates import trust
from devices.consumers import login
from devices.credentials import (
    Answer,
    DeviceDirectory,
    Identity,
    Key,
    Question,
    issue,
    read_credentials,
    revoke_certificate,
    rotate,
    set_enabled,
)
from devices.downlink import Downlink
from devices.limits import DeviceLimits, DeviceOptions, FailedLogins, Flapping
from devices.models import CertificateName, Credential, Device
from devices.observers import Observer
from devices.presence import ConnectionRegistry, PresenceRecorder
from devices.profiles import profile_of
from devices.refusals import LoginRefusal, Refusal
from devices.routing import http_routes, mqtt_application, websocket_routes
from devices.services import DeviceServices
from gateway.databases.thread import DatabaseThread
from gateway.db import database_sync_to_async
from gateway.layers import InMemoryChannelLayer
from gateway.routing import ProtocolTypeRouter, URLRouter
from gateway.testing import MqttCommunicator
from tests.support.authority import Authority
from tests.unit.devices.conftest import MakeStoredDevice

APPLICATION: Final = ProtocolTypeRouter(
    {"mqtt": mqtt_application, "http": URLRouter(http_routes), "websocket": URLRouter(websocket_routes)}
)
NAME: Final = "plant-1 thermo"


@dataclass
class Login:
    """What a client says."""

    token: str | None = None
    password: bytes | None = None
    certificate: str | None = None


@dataclass
class World:
    """The services of a gateway, with bounds that are easily met, and one device."""

    device: Device
    token: str
    other_token: str
    certificate: str
    directory: DeviceDirectory = field(init=False)
    services: DeviceServices = field(init=False)

    def __post_init__(self) -> None:
        self.directory = DeviceDirectory(read=self.read)
        self.answer: Callable[[dict[Key, Question]], Any] = read_credentials
        limits = DeviceLimits(DeviceOptions(max_connections=1), FailedLogins(1, pause_s=0), Flapping(1, 3600))
        connections = ConnectionRegistry(self.directory, announce=lambda *change: None)
        ingest: Any = None  # nobody gets that far
        self.noted = Noted()
        self.services = DeviceServices(
            ingest,
            self.directory,
            connections,
            limits,
            PresenceRecorder(connections),
            self.noted,
            Downlink(InMemoryChannelLayer(), instance_id=lambda: None),
            DatabaseThread("device requests"),
        )

    def read(self, questions: dict[Key, Question]) -> dict[Key, Answer]:
        """What the directory has for a database."""
        answers: dict[Key, Answer] = self.answer(questions)
        return answers

    @property
    def identity(self) -> Identity:
        return Identity(self.device.pk, NAME, profile_of("thingsboard"), self.directory.generation)


async def unknown(world: World) -> Login:
    return Login("NobodyHasThisTokenZ9aq")


async def short(world: World) -> Login:
    return Login("hunter2")


async def disabled(world: World) -> Login:
    await database_sync_to_async(set_enabled)(world.device, False)
    return Login(world.token)


async def revoked(world: World) -> Login:
    await database_sync_to_async(rotate)(world.device)
    ago = timezone.now() - timedelta(hours=2, minutes=1)
    await database_sync_to_async(Credential.objects.exclude(revoked_at=None).update)(revoked_at=ago)
    return Login(world.token)


async def deleted(world: World) -> Login:
    await database_sync_to_async(world.device.delete)()
    return Login(world.token)


async def nothing(world: World) -> Login:
    return Login()


async def token_as_password(world: World) -> Login:
    return Login("thermo", world.token.encode())


async def wrong_token_as_password(world: World) -> Login:
    return Login("thermo", b"NobodyHasThisTokenZ9aq")


async def password_alone(world: World) -> Login:
    return Login(None, world.token.encode())


async def away(world: World) -> Login:
    def fail(questions: dict[Key, Question]) -> None:
        raise OperationalError("server closed the connection")

    world.answer = fail
    return Login(world.token)


async def away_while_a_certificate_is_looked_up(world: World) -> Login:
    await away(world)
    return Login(certificate=world.certificate)


async def busy(world: World) -> Login:
    loop = asyncio.get_running_loop()
    asked, go = asyncio.Event(), asyncio.Event()

    def wait(questions: dict[Key, Question]) -> dict[Key, Answer]:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(60)
        return read_credentials(questions)

    world.answer = wait
    others = [loop.create_task(world.directory.authenticate("a" * 32))]
    await asked.wait()
    others.append(loop.create_task(world.directory.authenticate("b" * 32)))
    await asyncio.sleep(0)
    loop.call_later(0.05, go.set)
    return Login(world.token)


async def failed_often(world: World) -> Login:
    world.services.limits.failed_logins.note(("127.0.0.1", 50_000))
    return await revoked(world)


async def unknown_certificate(world: World) -> Login:
    await database_sync_to_async(CertificateName.objects.all().delete)()
    return Login(certificate=world.certificate)


async def certificate_of_disabled(world: World) -> Login:
    await database_sync_to_async(set_enabled)(world.device, False)
    return Login(certificate=world.certificate)


async def revoked_certificate(world: World) -> Login:
    await database_sync_to_async(lambda: revoke_certificate(CertificateName.objects.get()))()
    return Login(certificate=world.certificate)


async def other_device(world: World) -> Login:
    return Login(world.other_token, certificate=world.certificate)


async def crowded(world: World) -> Login:
    assert world.services.connections.add(world.identity, lambda reason: None)
    return Login(world.token)


async def cut(world: World) -> Login:
    loop = asyncio.get_running_loop()

    def cut_and_read(questions: dict[Key, Question]) -> dict[Key, Answer]:
        answers = read_credentials(questions)
        loop.call_soon_threadsafe(world.directory.forget, {world.device.pk})
        return answers

    world.answer = cut_and_read
    return Login(world.token)


async def flapping(world: World) -> Login:
    world.services.limits.flapping.lost(world.device.pk)
    return Login(world.token)


ALL: Final = ("mqtt 3", "mqtt 4", "mqtt 5", "http", "websocket")
MQTT: Final = ALL[:3]
CONNECTIONS: Final = (*MQTT, "websocket")


@dataclass(frozen=True)
class Row:
    """A situation, the refusal that it ends in, what the log says, and the wires on which it can come up."""

    arrange: Callable[[World], Awaitable[Login]]
    refusal: LoginRefusal
    why: str
    wires: tuple[str, ...] = ALL
    is_known: bool = True
    """Whether the credential, valid or not, is that of a device."""


class Noted(Observer):
    """An observer of refusals."""

    def __init__(self) -> None:
        self.refusals: list[Refusal] = []

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)


_WHOSE = f"{NAME} (PK)"
_HINT = "; the password is"
TABLE: Final = [
    Row(unknown, LoginRefusal.UNKNOWN, "unknown token …Z9aq", is_known=False),
    Row(short, LoginRefusal.UNKNOWN, "unknown token of 7 characters", is_known=False),
    Row(disabled, LoginRefusal.UNKNOWN, f"device {_WHOSE} is disabled"),
    Row(revoked, LoginRefusal.UNKNOWN, f"token …LAST of {_WHOSE} was revoked 2 h ago"),
    Row(deleted, LoginRefusal.UNKNOWN, "unknown token …LAST", is_known=False),
    Row(nothing, LoginRefusal.MISSING, "no token", is_known=False),
    Row(
        token_as_password,
        LoginRefusal.UNKNOWN,
        f"unknown token of 6 characters{_HINT} the token of {_WHOSE}, which belongs into the user name",
        MQTT,
    ),
    Row(
        wrong_token_as_password,
        LoginRefusal.UNKNOWN,
        f"unknown token of 6 characters{_HINT} like a token, which belongs into the user name",
        MQTT,
        is_known=False,
    ),
    Row(
        password_alone,
        LoginRefusal.MISSING,
        f"no token{_HINT} the token of {_WHOSE}, which belongs into the user name",
        ("mqtt 5",),
    ),
    Row(
        away,
        LoginRefusal.UNAVAILABLE,
        "database away: OperationalError: server closed the connection",
        is_known=False,
    ),
    Row(
        away_while_a_certificate_is_looked_up,
        LoginRefusal.UNAVAILABLE,
        "database away: OperationalError: server closed the connection",
        is_known=False,
    ),
    Row(busy, LoginRefusal.BUSY, "1 credentials wait to be looked up already", is_known=False),
    Row(
        failed_often,
        LoginRefusal.FAILED_OFTEN,
        f"token …LAST of {_WHOSE} was revoked 2 h ago; too many failed logins of this address",
    ),
    Row(
        unknown_certificate,
        LoginRefusal.UNKNOWN_CERTIFICATE,
        "no device has a certificate of these names: san DNS:localhost, san IP:127.0.0.1, cn thermo",
        is_known=False,
    ),
    Row(certificate_of_disabled, LoginRefusal.UNKNOWN_CERTIFICATE, f"device {_WHOSE} is disabled"),
    Row(
        revoked_certificate,
        LoginRefusal.UNKNOWN_CERTIFICATE,
        f"certificate (cn thermo) of {_WHOSE} was revoked SECONDS ago",
    ),
    Row(other_device, LoginRefusal.OTHER_DEVICE, f"token of other (OTHER), certificate of {_WHOSE}"),
    Row(crowded, LoginRefusal.TOO_MANY, f"{_WHOSE} has 1 connections already", CONNECTIONS),
    Row(cut, LoginRefusal.CUT, f"{_WHOSE} was cut off while logging in", CONNECTIONS),
    Row(flapping, LoginRefusal.FLAPPING, f"{_WHOSE} is flapping: too many connections ended without DISCONNECT", MQTT),
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def world(
    sqlite_database: Path, new_device: MakeStoredDevice, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    monkeypatch.setattr(look_ups, "MAX_WAITING", 1)

    def make() -> World:
        device, other = new_device(NAME), new_device("other")
        path, _ = authority.issue("thermo")
        trust(device, "cn", "thermo")
        return World(device, issue(device), issue(other), path.read_text())

    world = await database_sync_to_async(make)()
    yield world
    await world.directory.close()


async def ask(world: World, wire: str, login: Login) -> list[dict[str, Any]]:
    """Logs in; what the application sends to the server."""
    kind, _, version = wire.partition(" ")
    scope: dict[str, Any] = {
        "type": kind,
        "client": ("127.0.0.1", 50_000),
        "extensions": {"tls": {"client_cert_chain": [login.certificate]}} if login.certificate else {},
        "state": {"devices": world.services},
    }
    if kind == "mqtt":
        scope |= {"mqtt_version": int(version), "client_id": "c", "username": login.token, "will": None}
        event: dict[str, Any] = {"type": "mqtt.connect", "password": login.password, "allow_anonymous": False}
    else:
        path = "/api/v1/telemetry" if kind == "http" else "/ws/device/"
        headers = [(b"authorization", f"Bearer {login.token}".encode())] if login.token else []
        scope |= {"path": path, "headers": headers, "subprotocols": [], "method": "POST", "query_string": b""}
        scope["extensions"]["websocket.http.response"] = {}
        event = {"type": "http.request", "body": b'{"a": 1}'} if kind == "http" else {"type": "websocket.connect"}
    client = ApplicationCommunicator(APPLICATION, scope)
    await client.send_input(event)
    sent = [await client.receive_output(60) for _ in range(1 if kind == "mqtt" else 2)]
    ends = {"mqtt": {"reason_code": 0, "reason": "application"}, "websocket": {"code": 1006}, "http": {}}
    await client.send_input({"type": f"{kind}.disconnect", **ends[kind]})
    await client.wait(60)
    return sent


def seen(sent: list[dict[str, Any]]) -> tuple[Any, ...]:
    """What of it reaches the peer."""
    if sent[0]["type"] == "mqtt.reject":
        return sent[0]["reason_code"], sent[0]["reason_string"]
    start, body = sent
    return start["status"], json.loads(body["body"])["error"], sorted(start["headers"])


def count(wire: str, refusal: LoginRefusal) -> float:
    labels = {"protocol": wire.partition(" ")[0], "reason": refusal.reason}
    return REGISTRY.get_sample_value("gateway_device_logins_refused_total", labels) or 0


CASES: Final = [(row, wire) for row in TABLE for wire in row.wires]


@pytest.mark.parametrize(("row", "wire"), CASES, ids=[f"{row.arrange.__name__}, {wire}" for row, wire in CASES])
async def test_the_peer_is_told_its_kind_and_the_log_whose_it_was_and_why(
    world: World, row: Row, wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    device_id = world.device.pk
    login = await row.arrange(world)
    before = count(wire, row.refusal)

    sent = await ask(world, wire, login)

    told = seen(sent)
    if wire.startswith("mqtt"):
        code = row.refusal.reason_code
        before_5 = 0x87 if code == 0x86 else code
        assert told[0] == (code if wire == "mqtt 5" else before_5)
    else:
        assert told[0] == row.refusal.status
        assert (b"retry-after" in dict(told[2])) is (row.refusal.retry_after_s is not None)
    assert told[1].startswith(row.refusal.reason)
    assert NAME not in told[1]
    other = await database_sync_to_async(lambda: Device.objects.get(name="other").pk)()
    why = row.why.replace("PK", str(device_id)).replace("OTHER", str(other)).replace("LAST", world.token[-4:])
    if wire.startswith("mqtt"):
        line = sent[0]["log_reason"]  # which the server writes: tests/integration/devices
        assert caplog.messages == []
    else:
        (line,) = caplog.messages
        assert "from 127.0.0.1:50000" in line
    start, _, end = why.partition("SECONDS")
    assert start in line
    assert end in line
    assert not any(token in line for token in (world.token, world.other_token))
    assert count(wire, row.refusal) == before + 1
    (refusal,) = world.noted.refusals
    assert (refusal.wire, refusal.what, refusal.kind) == (wire.partition(" ")[0], "login", row.refusal.reason)
    assert (refusal.address, refusal.code) == ("127.0.0.1", told[0])
    assert start in refusal.reason
    assert not any(token in str(refusal) for token in (world.token, world.other_token))
    owners = {other} if row.arrange is other_device else {device_id}
    assert {refusal.device_id} == (owners if row.is_known else {None})


def test_the_table_has_every_wire_on_which_devices_log_in() -> None:
    modules = [
        importlib.import_module(f"devices.consumers.{each.name}") for each in pkgutil.iter_modules(consumers.__path__)
    ]
    wires = {module.__name__ for module in modules if module is not login and hasattr(module, "log_in")}

    assert wires == {f"devices.consumers.{wire.partition(' ')[0]}" for row in TABLE for wire in row.wires}


def test_the_table_has_every_refusal_there_is() -> None:
    assert {row.refusal for row in TABLE} == set(LoginRefusal)
    assert len({refusal.reason for refusal in LoginRefusal}) == len(LoginRefusal)


@pytest.mark.parametrize("wire", ALL)
async def test_the_peer_sees_no_difference_between_a_token_that_was_valid_and_one_that_never_was(
    world: World, wire: str
) -> None:
    limits = DeviceLimits.of(DeviceOptions(max_failed_logins=0))
    world.services = dataclasses.replace(world.services, limits=limits)

    told = [seen(await ask(world, wire, await arrange(world))) for arrange in (unknown, short, disabled, revoked)]

    assert told == [told[0]] * 4


@pytest.mark.parametrize("arrange", [revoked_certificate, certificate_of_disabled])
async def test_whose_certificate_is_no_longer_valid_does_not_go_on_as_an_anonymous_client(
    world: World, arrange: Callable[[World], Awaitable[Login]]
) -> None:
    login = await arrange(world)
    extensions = {"tls": {"client_cert_chain": [login.certificate]}}
    state = {"devices": world.services}
    client = MqttCommunicator(APPLICATION, allow_anonymous=True, state=state, extensions=extensions)

    async with client:
        assert await client.connect(60) == (False, 0x86)


@pytest.mark.parametrize(
    ("arrange", "name", "code", "why"),
    [
        (unknown, "nobody", 0x90, "there is no device 'nobody'"),
        (disabled, NAME, 0x90, f"device {_WHOSE} is disabled"),
    ],
)
async def test_a_bridge_is_refused_what_is_for_no_device_and_the_log_says_why(
    world: World,
    arrange: Callable[[World], Awaitable[Login]],
    name: str,
    code: int,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Upstream is told nothing but the acknowledgement, so that all there is to say is in the log."""
    await arrange(world)
    state = {"devices": world.services}
    async with MqttCommunicator(APPLICATION, "bridge", state=state, extensions={"bridge": {}}) as bridge:
        await bridge.connect(60)

        ack_id = await bridge.send_publish(f"v1/devices/{name}/telemetry", b'{"a": 1}')
        ack = await bridge.receive_ack(ack_id, 60)

    assert ack["reason_code"] == code
    assert f"{code:#04x} {why.replace('PK', str(world.device.pk))}" in "".join(caplog.messages) + str(ack)


async def test_a_bridge_waits_while_nobody_can_say_whose_a_message_is(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that is refused twice is acknowledged upstream, and lost."""
    monkeypatch.setattr("devices.consumers.bridge.RETRY_S", 0)
    answer = world.answer
    await away(world)
    state = {"devices": world.services}
    async with MqttCommunicator(APPLICATION, "bridge", state=state, extensions={"bridge": {}}) as bridge:
        await bridge.connect(60)
        ack_id = await bridge.send_publish("v1/devices/nobody/telemetry", b'{"a": 1}')
        async with asyncio.timeout(60):
            while "waiting until it works: OperationalError: server closed the connection" not in caplog.text:
                await asyncio.sleep(0)
        assert await bridge.receive_nothing(timeout=0)

        world.answer = answer

        assert (await bridge.receive_ack(ack_id, 60))["reason_code"] == 0x90


class TestManyFailedLogins:
    """They are the failing ones' trouble."""

    async def test_passwords_are_looked_up_for_the_log_only_while_few_logins_have_failed(self, world: World) -> None:
        why = [
            (await ask(world, "mqtt 5", Login(token, world.token.encode())))[0]["log_reason"]
            for token in (None, None, "thermo")
        ]

        assert ["the password is" in reason for reason in why] == [True, False, False]

    @pytest.mark.parametrize("wire", ALL)
    async def test_a_valid_token_of_the_same_address_is_let_in_whatever_is_remembered(
        self, world: World, wire: str
    ) -> None:
        for number in range(10):
            await ask(world, wire, Login(f"NobodyHasThisToken{number:04}"))
        assert seen(await ask(world, wire, await unknown(world)))[1] == "too many failed logins"

        found = await world.directory.authenticate(world.token, ("127.0.0.1", 1))

        assert isinstance(found, Identity)
        if wire.startswith("mqtt"):
            assert (await ask(world, wire, Login(world.token)))[0]["type"] == "mqtt.accept"
