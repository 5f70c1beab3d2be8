"""Topic handlers: which method of an MQTT consumer takes a publish, by its topic.

    class Thermometer(AsyncMqttConsumer):
        @topic("v1/devices/me/telemetry")
        async def telemetry(self, event): ...

        @topic("v1/devices/me/rpc/response/<int:request_id>")
        async def rpc_response(self, event, request_id): ...

Placeholders are those of django.urls.path, with its converters and those registered with it: `<name>` and `<str:name>`
take one level, `<path:name>` the rest. A topic without placeholders is found by one look into a dict, whatever their
number; the others are tried in the order of their definition.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.urls.converters import get_converters

from gateway.dispatch.handlers import Handler

F = TypeVar("F", bound=Callable[..., Any])

ToPython: TypeAlias = Callable[[str], Any]

_PLACEHOLDER = re.compile(r"<(?:(?P<converter>[^>:]+):)?(?P<name>[^>]+)>")
_ATTRIBUTE = "mqtt_topics"


def topic(pattern: str, *, route: bool = True) -> Callable[[F], F]:
    """Makes a method of an MQTT consumer the handler of publishes to topics of this pattern.

    The method takes the `mqtt.publish` event (docs/events.md) and the placeholders by name, and answers as
    `receive_publish` does. It may carry several. `route=False` keeps what it accepts from other subscribers.
    """

    def mark(method: F) -> F:
        # The decorator next to the method runs first: the order of definition is that from top to bottom.
        vars(method).setdefault(_ATTRIBUTE, []).insert(0, _Declared(pattern, route))
        return method

    return mark


@dataclass(frozen=True, slots=True)
class _Declared:
    pattern: str
    route: bool


@dataclass(frozen=True, slots=True)
class TopicHandler:
    """The method that takes a publish, by name, and the placeholders of its topic."""

    method: str
    route: bool
    captures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Pattern:
    text: str
    regex: re.Pattern[str]
    converters: dict[str, ToPython]
    handler: TopicHandler

    def captures(self, topic_name: str) -> dict[str, Any] | None:
        """The placeholders of a topic of this pattern; None for any other, one that a converter refuses included."""
        match = self.regex.fullmatch(topic_name)
        if match is None:
            return None
        try:
            return {name: to_python(match[name]) for name, to_python in self.converters.items()}
        except ValueError:
            return None


class TopicTable:
    """The topic handlers of one consumer class."""

    __slots__ = ("literal", "methods", "patterns")

    def __init__(self, consumer_class: type, *, sync: bool) -> None:
        """Raises ImproperlyConfigured when two methods have one pattern, or one cannot be a handler of its own."""
        self.literal: dict[str, TopicHandler] = {}
        self.patterns: list[_Pattern] = []
        self.methods: set[str] = set()
        """The names of the methods that are topic handlers."""
        owners: dict[str, str] = {}
        for name, method in _methods_in_order(consumer_class):
            for declared in getattr(method, _ATTRIBUTE, ()):
                where = f"{consumer_class.__qualname__}.{name}"
                if declared.pattern in owners:
                    raise ImproperlyConfigured(
                        f"{where}: the topic {declared.pattern!r} is that of {owners[declared.pattern]} already."
                    )
                owners[declared.pattern] = where
                self._add(where, declared, name, method, sync=sync)
                self.methods.add(name)

    def __bool__(self) -> bool:
        return bool(self.literal or self.patterns)

    def find(self, topic_name: str) -> TopicHandler | None:
        """The handler of publishes to `topic_name`."""
        handler = self.literal.get(topic_name)
        if handler is not None:
            return handler
        for pattern in self.patterns:
            captures = pattern.captures(topic_name)
            if captures is not None:
                return TopicHandler(pattern.handler.method, pattern.handler.route, captures)
        return None

    def _add(self, where: str, declared: _Declared, name: str, method: Handler, *, sync: bool) -> None:
        regex, converters = compile_topic(declared.pattern)
        if inspect.iscoroutinefunction(inspect.unwrap(method)) is sync:
            kind = "a plain function" if sync else "a coroutine function"
            raise ImproperlyConfigured(f"{where}: the handler of a topic must be {kind} here.")
        try:
            inspect.signature(method).bind(None, None, **dict.fromkeys(converters))
        except TypeError as error:
            raise ImproperlyConfigured(f"{where} does not fit the topic {declared.pattern!r}: {error}.") from None
        handler = TopicHandler(name, declared.route, {})
        if converters:
            self.patterns.append(_Pattern(declared.pattern, regex, converters, handler))
        else:
            self.literal[declared.pattern] = handler


def compile_topic(pattern: str) -> tuple[re.Pattern[str], dict[str, ToPython]]:
    """The regular expression of a topic pattern and the converter of each placeholder.

    Raises ImproperlyConfigured for a pattern that no topic name can have [MQTT5-3.3.2-2], an unknown converter, or a
    placeholder that is no identifier or comes twice.
    """
    parts: list[str] = []
    converters: dict[str, ToPython] = {}
    end = 0
    for match in _PLACEHOLDER.finditer(pattern):
        name, converter_name = match["name"], match["converter"] or "str"
        known = get_converters()
        if converter_name not in known:
            raise ImproperlyConfigured(f"Topic {pattern!r} uses invalid converter {converter_name!r}.")
        if not name.isidentifier() or name in converters:
            raise ImproperlyConfigured(f"Topic {pattern!r}: {name!r} is not a name, or used more than once.")
        converters[name] = known[converter_name].to_python
        parts += [re.escape(pattern[end : match.start()]), f"(?P<{name}>{known[converter_name].regex})"]
        end = match.end()
    parts.append(re.escape(pattern[end:]))
    literal = _PLACEHOLDER.sub("", pattern)
    if not pattern or any(character in literal for character in "+#<>"):
        raise ImproperlyConfigured(
            f"Topic {pattern!r}: a topic has no wildcards; use placeholders such as <path:rest>."
        )
    return re.compile("".join(parts), re.DOTALL), converters


def _methods_in_order(consumer_class: type) -> Iterator[tuple[str, Handler]]:
    """The methods of a class in the order of definition, those of its bases first, as it has overridden them."""
    names: dict[str, None] = {}
    for base in reversed(consumer_class.__mro__):
        names.update(dict.fromkeys(vars(base)))
    for name in names:
        method = inspect.getattr_static(consumer_class, name)
        if inspect.isfunction(method):
            yield name, method
