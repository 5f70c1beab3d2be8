"""Whether a consumer takes a layer message of a type that is not in its table of handlers.

A message of a channel layer comes from anywhere: see gateway.dispatch.handlers for what it may call. One that is
refused is counted and logged, and the consumer goes on.
"""

from typing import TYPE_CHECKING

from gateway.dispatch.handlers import get_handler_name
from gateway.layers import LayerEvent, Message
from gateway.metrics import layer_refused
from protocols.log_lines import PeerLog

if TYPE_CHECKING:
    from gateway.consumer import AsyncConsumer

peer_log = PeerLog("gateway.layer")


def accepts(consumer_class: "type[AsyncConsumer]", message: Message) -> bool:
    """Whether `message` may be handled; one that may not be is refused here."""
    try:
        name = get_handler_name(message)
    except ValueError as error:
        return _refuse(consumer_class, message, str(error))
    if name in consumer_class._gateway_message_handlers:
        return True
    if isinstance(message, LayerEvent):  # nobody can forge it, so it may call what a class of ours has for it
        return name in consumer_class._gateway_handlers
    if name in consumer_class._gateway_handlers:
        return _refuse(consumer_class, message, "only the connection sends events of this type")
    if hasattr(consumer_class, name):
        why = f"{name} is not a handler: it is the framework's, or does not take one event"
        return _refuse(consumer_class, message, why)
    if consumer_class._gateway_own_dispatch:  # which may know more types than there are methods
        return True
    return _refuse(consumer_class, message, f"there is no method {name}")


def _refuse(consumer_class: "type[AsyncConsumer]", message: Message, why: str) -> bool:
    layer_refused.inc()
    name = consumer_class.__qualname__
    peer_log.error(name, "%s refused a layer message of type %.100r: %s", name, message.get("type"), why)
    return False
