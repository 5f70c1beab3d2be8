"""What is kept of refusals, and what is left out, on both databases."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import pytest
from django.db import connection, transaction
from prometheus_client import REGISTRY

from devices.models import Device, DeviceType, RecordedRefusal
from devices.refusal_recorder import AT_ONCE, KEPT_OF_DEVICE, KEPT_OF_UNKNOWN, MAX_WAITING, REFILL_S, RefusalRecorder
from devices.refusals import SAMPLE_BYTES, Refusal, Sample
from gateway.db import database_sync_to_async
from tests.support.waiting import until

REFUSAL: Final = Refusal(
    kind="payload",
    wire="mqtt",
    address="192.0.2.1",
    what="publish v1/devices/me/telemetry",
    code=0x99,
    reason="not JSON: expected a colon (byte 5)",
    claimed="thermo-1",
    sample=Sample.of(b'{"a" 1}', 5),
)
AT_MS: Final = 1_700_000_000_000


def left_out(why: str) -> float:
    return REGISTRY.get_sample_value("gateway_refusals_left_out_total", {"why": why}) or 0


@pytest.fixture
def device(database: str) -> Device:
    device_type, _ = DeviceType.objects.get_or_create(name="default")
    return Device.objects.create(name="thermo-1", type=device_type)


@asynccontextmanager
async def recording(**clocks: Callable[[], Any]) -> AsyncIterator[RefusalRecorder]:
    """A recorder that has written what it was told when this ends."""
    recorder = RefusalRecorder(interval_s=0, now_ms=lambda: AT_MS, **clocks)
    recorder.start()
    yield recorder
    await recorder.close()


@database_sync_to_async
def kept(**chosen: Any) -> list[RecordedRefusal]:
    """The newest first."""
    return list(RecordedRefusal.objects.filter(**chosen))


async def test_all_of_a_refusal_is_kept(device: Device) -> None:
    async with recording() as recorder:
        recorder.refused(replace(REFUSAL, device_id=device.pk))

    (row,) = await kept(device=device)
    assert (row.kind, row.wire, row.address, row.what) == ("payload", "mqtt", "192.0.2.1", REFUSAL.what)
    assert (row.shown_code, row.reason, row.claimed, row.at_ms) == ("0x99", REFUSAL.reason, "thermo-1", AT_MS)
    assert row.shown_sample == '{"a" ▸1}'


@pytest.mark.parametrize(
    ("payload", "fault", "shown"),
    [
        (b"\xff\x00\n", 0, "▸\\xff\\x00\\n"),
        (b"x" * 1_000, None, "x" * SAMPLE_BYTES + "…"),
        (b"x" * 1_000 + b"!" + b"y" * 1_000, 1_000, "…" + "x" * 100 + "▸!" + "y" * 99 + "…"),
        (b"{", 1, "{▸"),
        (b"", None, ""),
    ],
)
def test_a_sample_shows_the_place_of_the_fault(payload: bytes, fault: int | None, shown: str) -> None:
    content, start, at = Sample.of(payload, fault)

    assert RecordedRefusal(sample=content, sample_start=start, fault=at).shown_sample == shown


async def test_what_a_peer_has_chosen_is_cut_and_fit_for_the_database(device: Device) -> None:
    async with recording() as recorder:
        recorder.refused(replace(REFUSAL, claimed="\0\ud800" + "x" * 1_000, what="publish " + "é\n" * 500))

    (row,) = await kept()
    assert row.claimed.startswith("\\x00\\ud800xxx")
    assert "\n" not in row.what


async def test_the_last_of_each_device_and_of_all_others_are_kept(device: Device) -> None:
    kinds = KEPT_OF_DEVICE // AT_ONCE + 1
    addresses = KEPT_OF_UNKNOWN // AT_ONCE + 1
    everything = [
        *(replace(REFUSAL, device_id=device.pk, kind=f"kind {n // AT_ONCE}") for n in range(kinds * AT_ONCE)),
        *(replace(REFUSAL, address=f"192.0.2.{n // AT_ONCE}") for n in range(addresses * AT_ONCE)),
    ]
    for start in range(0, len(everything), MAX_WAITING):
        async with recording() as recorder:
            for number, refusal in enumerate(everything[start : start + MAX_WAITING], start):
                recorder.refused(replace(refusal, reason=str(number)))

    of_device = [int(row.reason) for row in await kept(device=device)]
    of_others = [int(row.reason) for row in await kept(device=None)]
    assert of_device == list(range(kinds * AT_ONCE))[: -KEPT_OF_DEVICE - 1 : -1]
    assert of_others == list(range(len(everything)))[: -KEPT_OF_UNKNOWN - 1 : -1]


async def test_one_device_and_kind_has_a_share_that_fills_again(device: Device) -> None:
    now = 0.0
    of_device = replace(REFUSAL, device_id=device.pk)
    before = left_out("share")
    async with recording(monotonic=lambda: now) as recorder:
        for _ in range(AT_ONCE + 3):
            recorder.refused(of_device)
        recorder.refused(replace(of_device, kind="another"))
        recorder.refused(replace(of_device, address="192.0.2.2", wire="http"))
        now = REFILL_S
        recorder.refused(of_device)

    assert left_out("share") == before + 4
    assert len(await kept()) == AT_ONCE + 2


async def test_addresses_of_one_network_share(device: Device) -> None:
    before = left_out("share")
    async with recording() as recorder:
        for number in range(AT_ONCE + 1):
            recorder.refused(replace(REFUSAL, address=f"2001:db8::{number:x}"))

    assert left_out("share") == before + 1


async def test_what_waits_is_bounded(device: Device) -> None:
    before = left_out("too_many")
    recorder = RefusalRecorder(interval_s=0)
    for number in range(MAX_WAITING + 7):
        recorder.refused(replace(REFUSAL, device_id=number))
    recorder.start()
    await recorder.close()

    assert left_out("too_many") == before + 7
    assert len(await kept()) == MAX_WAITING


async def test_a_refusal_of_a_device_that_is_deleted_meanwhile_is_kept_as_of_an_unknown_one(device: Device) -> None:
    async with recording() as recorder:
        recorder.refused(replace(REFUSAL, device_id=device.pk))
        recorder.refused(replace(REFUSAL, device_id=device.pk + 1_000))

    assert [row.claimed for row in await kept(device=None)] == ["thermo-1"]

    await database_sync_to_async(device.delete)()
    assert len(await kept()) == 1


async def test_while_the_database_takes_none_they_wait(
    device: Device, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    locked, written = threading.Event(), threading.Event()

    def lock() -> None:
        """Locks the table in a transaction until somebody has failed to write to it."""
        with transaction.atomic():
            if database == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(f"LOCK TABLE {RecordedRefusal._meta.db_table}")
            else:
                Device.objects.update(last_seen_ms=1)
            locked.set()
            written.wait(60)

    async with recording() as recorder:
        locking = asyncio.ensure_future(database_sync_to_async(lock, thread_sensitive=False)())
        await asyncio.to_thread(locked.wait, 60)
        recorder.refused(REFUSAL)
        await until(lambda: "cannot record what was refused" in caplog.text, "a failure to write")
        written.set()
        await locking

    assert len(await kept()) == 1


async def test_several_processes_write_to_one_table(device: Device) -> None:
    async with recording() as one, recording() as two:
        for number in range(AT_ONCE):
            one.refused(replace(REFUSAL, device_id=device.pk, reason=f"one {number}"))
            two.refused(replace(REFUSAL, device_id=device.pk, reason=f"two {number}"))

    assert len(await kept(device=device)) == 2 * AT_ONCE
