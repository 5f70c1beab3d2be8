"""Which methods of a consumer class are handlers, decided once, when the class is created.

An event of the connection may call the handlers that the framework's classes name (`websocket_receive`) and those that
the user defines. A message of a channel layer comes from anywhere, so it may call only what the user defines: public
methods that take one event, and neither a method of the framework, overridden or not (`close`, `send`, `receive`), nor
a handler of connection events. One that may not be called is counted and logged, and the consumer goes on.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from asgiref.sync import AsyncToSync, SyncToAsync

from gateway.layers import LayerEvent, Message
from gateway.metrics import layer_refused
from protocols.log_lines import PeerLog

Handler: TypeAlias = Callable[[Any, Any], Any]

peer_log = PeerLog("gateway.layer")

CONNECTION_HANDLERS = frozenset(
    {
        "websocket_connect",
        "websocket_receive",
        "websocket_disconnect",
        "http_request",
        "http_disconnect",
        "mqtt_connect",
        "mqtt_auth",
        "mqtt_publish",
        "mqtt_subscribe",
        "mqtt_retained",
        "mqtt_unsubscribe",
        "mqtt_disconnect",
        "lifespan_startup",
        "lifespan_shutdown",
    }
)
"""Methods for events that only a connection may send, also where a user's class is the first to define them."""


def get_handler_name(message: Mapping[str, Any]) -> str:
    """The name of the method that handles `message`: its type with "." replaced by "_".

    Raises ValueError when there is no type, or it would name a private method.
    """
    if "type" not in message:
        raise ValueError("Incoming message has no 'type' attribute")
    handler_name = str(message["type"]).replace(".", "_")
    if handler_name.startswith("_"):
        raise ValueError("Malformed type in message (leading underscore)")
    return handler_name


class HandlerTable:
    """The names of the handlers of one consumer class, by the types that call them.

    They are looked up on the instance when they are called, so a test may patch them, on the class or on an instance.
    """

    __slots__ = ("_class", "_own_dispatch", "events", "messages")

    def __init__(self, consumer_class: type, *, framework: Iterable[type], events: Iterable[str], sync: bool) -> None:
        """`framework` are the classes whose methods are API, and `events` the types for which they have handlers."""
        framework = list(framework)
        by_user = _user_handlers(consumer_class, framework=framework, sync=sync)
        generic = [event.replace(".", "_") for event in events]
        raw = [name for name in CONNECTION_HANDLERS if hasattr(consumer_class, name)]
        self.messages = _by_type(by_user)
        """type -> name, for messages of a channel layer."""
        self.events = _by_type({*by_user, *generic, *raw})
        """type -> name, for events of the connection and what the consumer posts to itself.

        Both "chat_message" and "chat.message" are there; a type that mixes the two ("chat.new_message") is not.
        """
        self._class = consumer_class
        self._own_dispatch = next(base for base in consumer_class.__mro__ if "dispatch" in vars(base)) not in framework

    def remove(self, names: Iterable[str]) -> None:
        """Makes methods that are called in another way no handlers."""
        for name in names:
            for table in (self.messages, self.events):
                table.pop(name, None)
                table.pop(name.replace("_", "."), None)

    def name_of(self, event: Mapping[str, Any]) -> str:
        """The name of the method that handles `event`. Raises ValueError if there is none."""
        name = self.events.get(event.get("type", ""))
        if name is None:
            name = self.events.get(get_handler_name(event))
            if name is None:
                raise ValueError(f"No handler for message type {event['type']}")
        return name

    def may_call(self, message: Message) -> bool:
        """Whether a message of a channel layer may be handled; one that may not be is counted and logged here."""
        if message.get("type") in self.messages:
            return True
        try:
            name = get_handler_name(message)
        except ValueError as error:
            return self._refuse(message, str(error))
        if name in self.messages:
            return True
        if isinstance(message, LayerEvent):  # nobody can forge it, so it may call what a class of ours has for it
            return name in self.events
        if name in self.events:
            return self._refuse(message, "only the connection sends events of this type")
        if hasattr(self._class, name):
            return self._refuse(message, f"{name} is not a handler: it is the framework's, or does not take one event")
        if self._own_dispatch:  # which may know more types than there are methods
            return True
        return self._refuse(message, f"there is no method {name}")

    def _refuse(self, message: Message, why: str) -> bool:
        layer_refused.inc()
        name = self._class.__qualname__
        peer_log.error(name, "%s refused a layer message of type %.100r: %s", name, message.get("type"), why)
        return False


def _by_type(names: Iterable[str]) -> dict[str, str]:
    return {event_type: name for name in names for event_type in (name, name.replace("_", "."))}


def _user_handlers(consumer_class: type, *, framework: Iterable[type], sync: bool) -> list[str]:
    """The names of the methods that a layer message may call; `framework` are the classes whose methods are API."""
    reserved = CONNECTION_HANDLERS.union(*(vars(base) for base in framework))
    return [
        name
        for name in dir(consumer_class)
        if not name.startswith("_")
        and name not in reserved
        and is_handler(inspect.getattr_static(consumer_class, name), name, sync=sync)
    ]


def is_handler(method: object, name: str, *, sync: bool) -> bool:
    """Whether `method`, as it stands in a class body under `name`, can be called with one event.

    It is to be a coroutine function in an asynchronous consumer and none in a synchronous one. What a decorator made of
    it counts for what it decorates if it tells that (`__wrapped__`), and else for a handler: it may well return
    something to be awaited. A method need not be a function: `database_sync_to_async` makes none.
    """
    if isinstance(method, SyncToAsync):
        return not sync and _takes_one_event(method.func)
    if isinstance(method, AsyncToSync):
        return sync and _takes_one_event(method.awaitable)
    if not inspect.isfunction(method):
        return _is_method_object(method)
    decorated = inspect.unwrap(method)
    if inspect.iscoroutinefunction(decorated) is sync and (sync or decorated.__name__ == name):
        return False
    return _takes_one_event(method)


def _takes_one_event(method: Callable[..., Any]) -> bool:
    try:
        inspect.signature(method).bind(None, None)
    except TypeError:
        return False
    return True


def _is_method_object(attribute: object) -> bool:
    """Whether `attribute` makes a method of itself, as functions do, and can be called."""
    if isinstance(attribute, staticmethod | classmethod):
        return False
    return isinstance(attribute, functools.partialmethod) or (
        callable(attribute) and hasattr(type(attribute), "__get__")
    )
