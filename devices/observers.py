"""Those who look at what devices do: dashboards, the live log, the record of refusals; and who else is to come.

An observer is told what has happened, in the event loop, and cannot delay it: what takes longer than a moment goes into
a queue of its own, which is bounded and counts what it leaves out. Who tells knows no observer by name.
"""

from collections.abc import Callable
from typing import Final

from devices.reading_batch import ReadingBatch
from devices.refusals import Refusal
from protocols.log_lines import PeerLog

peer_log: Final = PeerLog("gateway.devices")


class Observer:
    """Overrides the methods for what it looks at. None may wait."""

    def committed(self, batch: ReadingBatch) -> None:
        """Readings are stored, and acknowledged: `batch.submissions` has the devices that they are of."""

    def connection(self, device_id: int, connected: bool) -> None:
        """It is in the database that a device has connected, or that no gateway has a connection of it any more."""

    def refused(self, refusal: Refusal) -> None:
        """Something was refused, and the peer has its answer or is about to get it."""


class Observers(Observer):
    """Tells each of its observers. What one raises is logged, and reaches neither the others nor who tells."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def committed(self, batch: ReadingBatch) -> None:
        self._tell(lambda observer: observer.committed(batch))

    def connection(self, device_id: int, connected: bool) -> None:
        self._tell(lambda observer: observer.connection(device_id, connected))

    def refused(self, refusal: Refusal) -> None:
        self._tell(lambda observer: observer.refused(refusal))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception as error:  # what becomes of it elsewhere must not stop what devices do
                peer_log.error("observers", "telling %s failed", type(observer).__name__, exc_info=error)
