"""What devices are refused, on wires whose servers log none of it: HTTP and WebSocket. Counted, and a line in the log.

A peer may be refused as often as it likes: each has a line a second at most, which says how many were left out.
"""

import logging
from collections.abc import Hashable

from devices import metrics
from devices.credentials import Identity
from devices.profiles import PayloadError
from protocols.asgi import Scope
from protocols.log_limit import LogLimits
from protocols.runner import describe

logger = logging.getLogger("gateway.devices")

_limits = LogLimits(interval_s=1.0)


def note_login(scope: Scope, reason: str) -> None:
    """A device was not let in."""
    client = scope.get("client")
    _log("a device's login", scope, reason, peer=client and client[0])


def note_payload(scope: Scope, device: Identity, error: PayloadError) -> None:
    """A payload was no telemetry, and none of it is stored."""
    metrics.payloads_refused.labels(scope["type"], "payload").inc()
    _log(f"what {device.name} sent", scope, str(error), peer=device.device_id)


def _log(what: str, scope: Scope, reason: str, *, peer: Hashable) -> None:
    suppressed = _limits.take((scope["type"], peer))
    if suppressed is not None:
        more = f" ({suppressed} others were not logged)" if suppressed else ""
        logger.warning("refused %s: %s: %s%s", what, describe(scope), reason, more)
