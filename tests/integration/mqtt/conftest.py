"""The real server on a free port of the loopback, and the clients that drive it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any

import pytest

from protocols.asgi import Application
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import Address, ConnectPaho, OpenRaw, Serve
from tests.integration.mqtt.paho_client import PahoClient
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import DEADLINE_S


def as_address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts a server for an application, with the options given, of the listener or of the broker; returns its
    address."""
    servers: list[MqttServer] = []

    async def start(application: Application, **options: Any) -> Address:
        broker_keys = {declared.name for declared in fields(BrokerOptions)}
        of_broker = {key: options.pop(key) for key in broker_keys & options.keys()}
        listener = Listener(bind="127.0.0.1:0", options=MqttOptions(**{"allow_anonymous": True, **options}))
        server = MqttServer(application, [listener], state={}, server_options=BrokerOptions(**of_broker))
        servers.append(server)
        await server.start()
        return as_address(server.addresses[0])

    yield start
    for server in servers:
        server.stop_accepting()
        async with asyncio.timeout(DEADLINE_S):
            await server.close()


@pytest.fixture
def application() -> AcceptEverything:
    return AcceptEverything()


@pytest.fixture
async def address(serve: Serve, application: AcceptEverything) -> Address:
    """The address of a server with the default options."""
    return await serve(application)


@pytest.fixture
async def open_raw(address: Address) -> AsyncIterator[OpenRaw]:
    """Opens connections that send nothing by themselves."""
    clients: list[RawClient] = []

    async def open_one(version: int = 4, *, to: Address = address) -> RawClient:
        client = await RawClient.open(to, version)
        clients.append(client)
        return client

    yield open_one
    for client in clients:
        client.abort()


@pytest.fixture
async def raw(open_raw: OpenRaw, address: Address) -> OpenRaw:
    """Opens connections and connects them: `await raw("client-id", 5, **CONNECT)`."""

    async def connect(client_id: str, version: int = 4, *, to: Address = address, **fields: Any) -> RawClient:
        client = await open_raw(version, to=to)
        connack = await client.connect(client_id, **fields)
        assert connack.reason_code == 0
        return client

    return connect


@pytest.fixture
async def paho(address: Address) -> AsyncIterator[ConnectPaho]:
    """Connects Paho clients: `await paho("client-id", 5)`."""
    clients: list[PahoClient] = []

    async def connect(client_id: str, version: int = 4, *, to: Address = address, **options: Any) -> PahoClient:
        client = PahoClient(to, client_id, version, **options)
        clients.append(client)
        _, code = await client.connect()
        assert code == 0
        return client

    yield connect
    for client in clients:
        await client.disconnect()
