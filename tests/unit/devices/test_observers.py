"""Those who look at what devices do, and that none of them can disturb it."""

from pathlib import Path

import pytest

from devices.credentials import Identity
from devices.ingest import Ingest
from devices.limits import DeviceOptions
from devices.observers import Observer, Observers
from devices.profiles import profile_of
from devices.reading_batch import ReadingBatch
from devices.refusals import Refusal
from devices.writers import make_writer

DEVICE = Identity(1, "thermo-1", profile_of("thingsboard"), 0)
REFUSAL = Refusal("payload", "mqtt", "192.0.2.1", "publish v2/t", 0x99, "not JSON")


class Noting(Observer):
    """An observer that takes down what it is told, and fails then if told to."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.told: list[object] = []
        self._fault = fault

    def committed(self, batch: ReadingBatch) -> None:
        self._note([row[0] for row in batch.rows])

    def connection(self, device_id: int, connected: bool) -> None:
        self._note((device_id, connected))

    def refused(self, refusal: Refusal) -> None:
        self._note(refusal)

    def _note(self, what: object) -> None:
        self.told.append(what)
        if self._fault is not None:
            raise self._fault


async def test_each_observer_is_told_and_the_fault_of_one_reaches_neither_the_others_nor_the_commits(
    sqlite_database: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faulty, sound = Noting(ZeroDivisionError()), Noting()
    observers = Observers(faulty, Observer(), sound)
    options = DeviceOptions()
    ingest = Ingest(make_writer(options.max_clock_skew_ms), on_commit=observers.committed, options=options)
    ingest.start()

    for _ in range(2):
        await ingest.store(DEVICE, [("t", None, 1.0, None)])
    observers.connection(1, True)
    observers.refused(REFUSAL)
    await ingest.close()

    assert sound.told == faulty.told == [[1], [1], (1, True), REFUSAL]
    assert caplog.text.count("telling Noting failed") == 4
