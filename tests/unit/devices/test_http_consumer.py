"""The consumers of devices that speak HTTP, without a server. What needs one: tests/integration/devices."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devices.client_certificates import Holder
from devices.consumers.http import DeviceHttpConsumer
from devices.credentials import DeviceDirectory
from devices.downlink import Downlink
from devices.ingest import Ingest
from devices.limits import DeviceLimits, DeviceOptions
from devices.models import Reading
from devices.observers import Observers
from devices.presence import ConnectionRegistry, PresenceRecorder
from devices.services import DeviceServices
from devices.writers import make_writer
from gateway.databases.thread import DatabaseThread
from gateway.db import database_sync_to_async
from gateway.layers import InMemoryChannelLayer, channel_layers
from gateway.testing import HttpCommunicator

OPTIONS = DeviceOptions()


class CountingLayer(InMemoryChannelLayer):
    """Counts the channels that it is asked for."""

    opened = 0

    async def new_channel(self, prefix: str = "specific") -> str:
        self.opened += 1
        return await super().new_channel(prefix)


@pytest.fixture
def layer() -> Iterator[CountingLayer]:
    layer = CountingLayer()
    old = channel_layers.set("default", layer)
    yield layer
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)


@pytest.fixture
async def services(sqlite_database: Path) -> AsyncIterator[DeviceServices]:
    """Those of a gateway whose only device is let in with any token."""
    holder = Holder("token", None, 1, "thermo-1", True, "thingsboard")
    directory = DeviceDirectory(read=lambda questions: dict.fromkeys(questions, holder))
    ingest = Ingest(make_writer(OPTIONS.max_clock_skew_ms), on_commit=lambda batch: None, options=OPTIONS)
    connections = ConnectionRegistry(directory, announce=lambda *change: None)
    ingest.start()
    yield DeviceServices(
        ingest,
        directory,
        connections,
        DeviceLimits.of(OPTIONS),
        PresenceRecorder(connections),
        Observers(),
        Downlink(InMemoryChannelLayer(), instance_id=lambda: None),
        DatabaseThread("device requests"),
    )
    await ingest.close()
    await directory.close()


async def test_a_post_of_telemetry_is_stored_and_opens_no_channel(
    services: DeviceServices, layer: CountingLayer
) -> None:
    request = HttpCommunicator(DeviceHttpConsumer.as_asgi(), "POST", "/api/v1/any/telemetry", b'{"t": 21.5}')
    request.scope |= {
        "client": None,
        "state": {"devices": services},
        "url_route": {"args": (), "kwargs": {"path": "any/telemetry"}},
    }

    assert (await request.get_response(timeout=60))["status"] == 200

    assert await database_sync_to_async(lambda: list(Reading.objects.values_list("number", flat=True)))() == [21.5]
    assert layer.opened == 0
