"""Which methods of a consumer class are handlers, decided once, when the class is created.

An event of the connection may call the handlers that the framework's classes name (`websocket_receive`) and those that
the user defines. A message of a channel layer comes from anywhere, so it may call only what the user defines: public
methods that take one event, and neither a method of the framework, overridden or not (`close`, `send`, `receive`), nor
a handler of connection events.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from asgiref.sync import AsyncToSync, SyncToAsync

Handler: TypeAlias = Callable[[Any, Any], Any]

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


def handlers_by_type(consumer_class: type, names: Iterable[str]) -> dict[str, Handler]:
    """Maps the types that name the methods `names` to the functions.

    Both "chat_message" and "chat.message" are there; a type that mixes the two ("chat.new_message") is not, and is
    found by its `get_handler_name`.
    """
    table: dict[str, Handler] = {}
    for name in names:
        is_function = inspect.isfunction(inspect.getattr_static(consumer_class, name))
        table[name] = table[name.replace("_", ".")] = getattr(consumer_class, name) if is_function else _Late(name)
    return table


def functions_by_name(table: dict[str, Handler]) -> dict[str, Handler]:
    """The entries of `table` that a replacement of the method would leave behind, by the names of the methods."""
    return {name: handler for name, handler in table.items() if "." not in name and not isinstance(handler, _Late)}


def follow_replacements(consumer: object, functions: dict[str, Handler], *tables: dict[str, Handler]) -> None:
    """Has `tables` call what a test has put in the place of some of `functions` since the class was made."""
    consumer_class, own = type(consumer), vars(consumer)
    replaced = [
        name
        for name, function in functions.items()
        if getattr(consumer_class, name, None) is not function or name in own
    ]
    for name in replaced:
        del functions[name]
        for table in tables:
            if name in table:
                table[name] = table[name.replace("_", ".")] = _Late(name)


class _Late:
    """Runs the method that a consumer has under a name when it is called.

    For methods that are no functions, which are bound by their own `__get__`, and for those that tests replace.
    """

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, consumer: object, event: Any) -> Any:
        return getattr(consumer, self._name)(event)


def user_handlers(consumer_class: type, *, framework: Iterable[type], sync: bool) -> list[str]:
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
