"""A device that uses up its keys, what a person does about it, and devices that go with all they have: on a gateway."""

import json
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.integration.devices.conftest import Gateway
from tests.support.administrator import Administrator
from tests.support.fleet import FleetDevice, add_devices
from tests.support.serving import Serving
from tests.support.waiting import until

Serve = Callable[..., Serving]

BOUNDS = ("--set", "devices.max_keys_per_device=5", "--set", "devices.max_keys=9")
MANY = 100_000


def post(gateway: Gateway, device: FleetDevice, *keys: str) -> int:
    body = json.dumps(dict.fromkeys(keys, 1)).encode()
    request = urllib.request.Request(f"{gateway.url}/api/v1/{device.token}/telemetry", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


async def test_one_device_has_its_share_of_keys_also_after_a_restart_until_a_person_deletes_some(serve: Serve) -> None:
    first = serve(*BOUNDS).ready()
    gateway = Gateway(first)
    greedy, good = add_devices(first, "greedy", "good")
    assert post(gateway, greedy, *"abcde") == 200

    assert post(gateway, greedy, "a", "f") == 429
    assert post(gateway, good, "brand_new_key") == 200
    assert post(gateway, good, *"ghij") == 507

    first.stop()
    again = Gateway(serve(*BOUNDS).ready())
    assert post(again, greedy, "z") == 429
    assert post(again, good, "brand_new_key") == post(again, greedy, *"abcde") == 200
    assert len(again.stored(greedy)) == 10
    assert len(again.stored(good)) == 2

    administrator = Administrator(again.url, first)
    readings = f"/admin/gateway_devices/device/{greedy.pk}/readings/"
    administrator.submit(readings, key="a", sure="yes", to=f"{readings}delete/")
    await until(lambda: post(again, greedy, "f") == 200, "the key was deleted, so that there is room for another")
    assert {key for key, _, _ in again.stored(greedy)} == set("bcdef")


async def test_a_deletion_goes_on_after_kill_9_and_holds_nobody_up(serve: Serve, tmp_path: Path) -> None:
    first = serve().ready()
    gateway = Gateway(first)
    doomed, other = add_devices(first, "doomed", "other")
    assert post(gateway, doomed, "t") == post(gateway, other, "t") == 200
    first.stop()
    with writing(tmp_path) as database:
        database.execute(
            "WITH RECURSIVE times(ts) AS (SELECT 1 UNION ALL SELECT ts + 1 FROM times WHERE ts < ?)"
            " INSERT INTO gateway_devices_reading (device_id, key_id, ts, seq, received, number)"
            " SELECT ?, (SELECT id FROM gateway_devices_key), ts, 0, 1, 1.0 FROM times",
            (MANY, doomed.pk),
        )

    second = serve().ready()
    gateway = Gateway(second)
    administrator = Administrator(gateway.url, first)
    administrator.submit(f"/admin/gateway_devices/device/{doomed.pk}/delete/", post="yes")
    assert gateway.query("SELECT name FROM gateway_devices_device") == [("other",)]
    assert post(gateway, doomed, "t") in (200, 401)  # until its connections are cut, which takes a second or two
    await until(lambda: progress(gateway) > 0, "it has begun")
    second.kill()
    assert progress(gateway) < MANY

    gateway = Gateway(serve().ready())
    while progress(gateway) < MANY:
        assert post(gateway, other, "t") == 200
    await until(lambda: not gateway.query("SELECT 1 FROM gateway_devices_deletion WHERE finished_at IS NULL"), "done")
    readings = dict(gateway.query("SELECT device_id, count(*) FROM gateway_devices_reading GROUP BY 1"))
    assert doomed.pk not in readings
    assert "doomed" in administrator_page(gateway, first)


def progress(gateway: Gateway) -> int:
    (deleted,) = gateway.query("SELECT coalesce(sum(deleted), 0) FROM gateway_devices_deletion")[0]
    return int(deleted)


def administrator_page(gateway: Gateway, first: Serving) -> str:
    return Administrator(gateway.url, first).get("/admin/gateway_devices/deletion/")


@contextmanager
def writing(directory: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(directory / "var" / "gateway.sqlite3")
    with database:
        yield database
    database.close()
