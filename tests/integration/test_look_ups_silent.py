"""Credentials are looked up again when PostgreSQL has fallen silent and works by new connections."""

import pytest
from django.db import connections

from devices import look_ups
from devices.credentials import DeviceDirectory, Identity, issue
from devices.look_ups import LookUpError
from devices.models import Device, DeviceType
from gateway.db import database_sync_to_async
from tests.support.postgres import PostgresServer
from tests.support.silent_proxy import silent_proxy


def add_devices() -> list[str]:
    """Two devices; their tokens."""
    kind = DeviceType.objects.create(name="default")
    return [issue(Device.objects.create(name=name, type=kind)) for name in ("one", "other")]


async def test_a_look_up_that_gets_no_answer_is_ended_and_the_next_has_a_new_connection(
    postgresql_database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await database_sync_to_async(add_devices)()
    directory = DeviceDirectory()
    with silent_proxy(postgres_server.port) as proxy:
        settings = {"PORT": proxy.port, "CONN_MAX_AGE": 60}
        monkeypatch.setitem(connections.settings, "default", connections.settings["default"] | settings)
        assert isinstance(await directory.authenticate(tokens[0]), Identity)
        assert proxy.connections == 1

        proxy.silence_established()
        with monkeypatch.context() as impatient:
            impatient.setattr(look_ups, "GROUP_TIMEOUT_S", 0.5)
            with pytest.raises(LookUpError, match=r"no answer within 0\.5 s"):
                await directory.authenticate(tokens[1])

        assert isinstance(await directory.authenticate(tokens[1]), Identity)
        assert proxy.connections == 2
        await directory.close()
