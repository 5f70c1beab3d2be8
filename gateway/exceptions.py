"""The exceptions of the framework; names, bases and meaning are those of Channels. `Reject` is for MQTT."""

from protocols.mqtt import is_failure


class RequestAborted(Exception):  # noqa: N818
    """Raised when a request ended before its body was complete."""


class RequestTimeout(RequestAborted):
    """Raised when a request ended because it took too long."""


class InvalidChannelLayerError(ValueError):
    """Raised when a channel layer is configured wrongly."""


class AcceptConnection(Exception):  # noqa: N818
    """Raised in a connect handler to accept the connection."""


class DenyConnection(Exception):  # noqa: N818
    """Raised in a connect handler to deny the connection; an argument is the reason, for the server's log."""


class ChannelFull(Exception):  # noqa: N818
    """Raised when a message is sent to a channel that is at capacity."""


class MessageTooLarge(Exception):  # noqa: N818
    """Raised when a message is too large to be sent."""


class StopConsumer(Exception):  # noqa: N818
    """Raised by a consumer that wants to end its application instance."""


class Reject(Exception):  # noqa: N818
    """Raised by an MQTT handler, or set on the future it returned, to refuse a connection, a filter or a publish.

    `reason_code` is that of MQTT 5 (0x80 or more) and `reason_string` is sent to MQTT 5 clients. Before MQTT 5, and at
    QoS 0, no acknowledgement can report that a publish was refused: then the connection is closed or, if `drop` is
    true, the publish is dropped, and before MQTT 5 acknowledged as if it were not.

    `log_reason` is for the log and the trace, instead of `reason_string`, when they may show more than the client may
    know: the owner of a credential, and why it is no longer valid.
    """

    def __init__(
        self,
        reason_code: int,
        reason_string: str | None = None,
        *,
        drop: bool = False,
        log_reason: str | None = None,
    ) -> None:
        if not is_failure(reason_code):
            raise ValueError(f"a refusal has a reason code of 0x80 or more, not {reason_code:#04x}")
        super().__init__(reason_code, reason_string)
        self.reason_code = int(reason_code)
        self.reason_string = reason_string
        self.drop = drop
        self.log_reason = log_reason

    def __str__(self) -> str:
        """The text for a log."""
        reason = self.log_reason or self.reason_string
        return f"{self.reason_code:#04x}" + (f" {reason}" if reason else "")


class GatewayError(Exception):
    """Raised when the gateway cannot start or continue; its text says what an operator can do about it."""
