"""The collaborators of the consumers of devices: made when the application starts, kept in
`scope["state"]["devices"]`."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from devices.credentials import DeviceDirectory
from devices.deletion import Deleter
from devices.downlink import Downlink
from devices.fanout import Fanout
from devices.ingest import Ingest
from devices.limits import DeviceLimits, configured
from devices.observers import Observer, Observers
from devices.presence import ConnectionRegistry, PresenceRecorder
from devices.refusal_recorder import RefusalRecorder
from devices.writers import make_writer
from gateway.databases.thread import DatabaseThread
from gateway.health import Lifecycle, NotReadyError
from gateway.layers import get_channel_layer
from gateway.lifespan import relying_on
from protocols.asgi import Scope


@dataclass(frozen=True, slots=True)
class DeviceServices:
    """The collaborators of every consumer of devices."""

    ingest: Ingest
    directory: DeviceDirectory
    connections: ConnectionRegistry
    limits: DeviceLimits
    presence: PresenceRecorder
    observers: Observer
    downlink: Downlink
    database: DatabaseThread
    """For what devices ask and say beside telemetry, one at a time."""


def services_of(scope: Scope) -> DeviceServices:
    """The services of the application that serves `scope`."""
    services: DeviceServices = scope["state"]["devices"]
    return services


async def readings_are_committed(scope: Scope) -> None:
    """A check for /readyz. Raises NotReadyError while the database takes no readings."""
    if services_of(scope).ingest.failure is not None:
        raise NotReadyError("readings cannot be committed; devices wait")


async def connections_are_watched(scope: Scope) -> None:
    """A check for /readyz. Raises NotReadyError while the database does not take this process's heartbeat, which is
    written every few seconds whether devices send or not, or cannot be asked whom to cut off."""
    if services_of(scope).presence.failure is not None:
        raise NotReadyError("connections of devices cannot be recorded or watched")


@asynccontextmanager
async def device_services(state: dict[str, Any]) -> AsyncIterator[None]:
    """Runs the services while the server runs; what was submitted is committed before this ends."""
    layer = get_channel_layer()
    if layer is None:
        raise ImproperlyConfigured("devices need a channel layer: CHANNEL_LAYERS['default']")

    options = configured()
    lifecycle: Lifecycle = state.get("lifecycle") or Lifecycle()
    directory = DeviceDirectory()
    fanout = Fanout(layer)
    refusals = RefusalRecorder()
    observers = Observers(fanout, refusals)
    connections = ConnectionRegistry(directory, announce=observers.connection, servers=lambda: lifecycle.servers)
    presence = PresenceRecorder(connections)
    downlink = Downlink(layer, instance_id=lambda: presence.instance_id)

    def start_over() -> None:
        downlink.start_over()
        presence.start_over()
        refusals.forget()

    ingest = Ingest(
        make_writer(options.max_clock_skew_ms),
        on_commit=observers.committed,
        on_replaced=start_over,
        options=options,
    )
    deleter = Deleter(ingest.between_commits, forget_keys=ingest.forget_keys)
    async with AsyncExitStack() as started:
        started.push_async_callback(directory.close)
        started.push_async_callback(fanout.close)
        database = DatabaseThread("device requests")
        started.push_async_callback(database.close)
        watching = await presence.start()
        started.push_async_callback(presence.close)
        started.push_async_callback(downlink.close)
        delivering = await downlink.start()
        recording = refusals.start()
        started.push_async_callback(refusals.close)
        committing = ingest.start()
        started.push_async_callback(ingest.close)
        deleting = deleter.start()
        started.push_async_callback(deleter.close)
        state["devices"] = DeviceServices(
            ingest, directory, connections, DeviceLimits.of(options), presence, observers, downlink, database
        )
        async with relying_on(committing, watching, delivering, recording, deleting):
            yield
