"""The mixin that lets a connection be told what waits for its device."""

from collections.abc import Callable
from typing import Any

from devices.credentials import Identity
from devices.downlink import Due, Receiver
from devices.profiles import Meaning
from devices.services import DeviceServices
from protocols.asgi import Event


class Told:
    """Mixed into a consumer: once it has asked by `hear`, what waits for its device comes by the event "device.due",
    which has a `due` and the `delivery_id` by which the receiver is told what became of it."""

    post: Callable[[Event], None]
    receiver: Receiver | None = None
    """From the first `hear` on."""

    def hear(self, services: DeviceServices, device: Identity, meaning: Meaning) -> None:
        """Has messages of this meaning come from now on. Raises RefusedError if too many connections of the device
        do."""
        if self.receiver is None:
            self.receiver = services.downlink.open(device.device_id, self._post_due)
        services.downlink.take(self.receiver, meaning)

    def hear_no_more(self, services: DeviceServices) -> None:
        """The connection has ended. Does nothing if it has heard nothing."""
        if self.receiver is not None:
            services.downlink.end(self.receiver)

    def _post_due(self, delivery_id: int, due: Due) -> None:
        event: dict[str, Any] = {"type": "device.due", "delivery_id": delivery_id, "due": due}
        self.post(event)
