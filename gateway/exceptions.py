"""The exceptions of the framework; names, bases and meaning are those of Channels."""


class RequestAborted(Exception):  # noqa: N818
    """Raised when a request ended before its body was complete."""


class RequestTimeout(RequestAborted):
    """Raised when a request ended because it took too long."""


class InvalidChannelLayerError(ValueError):
    """Raised when a channel layer is configured wrongly."""


class AcceptConnection(Exception):  # noqa: N818
    """Raised in a connect handler to accept the connection."""


class DenyConnection(Exception):  # noqa: N818
    """Raised in a connect handler to deny the connection."""


class ChannelFull(Exception):  # noqa: N818
    """Raised when a message is sent to a channel that is at capacity."""


class MessageTooLarge(Exception):  # noqa: N818
    """Raised when a message is too large to be sent."""


class StopConsumer(Exception):  # noqa: N818
    """Raised by a consumer that wants to end its application instance."""
