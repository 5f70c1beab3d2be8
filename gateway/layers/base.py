"""What a channel layer is: the interface that consumers use and the helpers that every layer shares.

A layer carries *messages* (dicts with a "type") to *channels* (one receiver each) and to *groups* of channels. It is
at most once and never waits for a receiver: what must not be lost is stored before it is sent here. The contract is
that of the channel layer specification of Channels, plus three things:

- `attach(channel, deliver)` gives the messages of a channel straight to a function of its owner, without a queue and
  a task in between; `detach(channel)` ends that and takes the channel out of its groups;
- `group_send` returns what happened to the message in this process, a `GroupSendResult`;
- a layer that lost and regained its server says so to each attached channel, with a `LayerEvent`.
"""

import asyncio
import fnmatch
import logging
import re
import warnings
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

logger = logging.getLogger("gateway.layer")

T = TypeVar("T")

Message: TypeAlias = dict[str, Any]

Deliver: TypeAlias = Callable[[Message], "bool | None"]
"""Takes one message, at once; called in the event loop that attached it. False: refused, counted as dropped."""

Capacities: TypeAlias = Mapping["str | re.Pattern[str]", int]

READER_RETRY_S = 1.0


class LayerEvent(dict[str, Any]):
    """A message from the layer itself, such as {"type": "layer.reconnected", "generation": 2}.

    A message cannot arrive as one, so nobody can forge it. Only attached channels get it, and a consumer without a
    handler for its type ignores it.
    """


class GroupSendResult(NamedTuple):
    """What one `group_send` did in this process; members in other processes are not known here."""

    delivered: int
    dropped: int


NOBODY = GroupSendResult(delivered=0, dropped=0)


class LayerUnavailableError(ConnectionError):
    """Raised when the server behind a layer cannot be reached, or did not answer in time.

    Members of the group in this process got the message nevertheless; `result` says how many.
    """

    def __init__(self, text: str, result: GroupSendResult = NOBODY) -> None:
        super().__init__(text)
        self.result = result


class SyncChannelLayer(Protocol):
    """The sending half of a layer for plain synchronous code: views, Celery tasks, threads, scripts."""

    def send(self, channel: str, message: Message) -> None:
        """As `BaseChannelLayer.send`."""

    def group_send(self, group: str, message: Message) -> GroupSendResult:
        """As `BaseChannelLayer.group_send`."""


class BaseChannelLayer:
    """The base of every layer, those of other packages included.

    A subclass implements `send`, `receive` and `new_channel`, and what its `extensions` name: "groups" (`group_add`,
    `group_discard`, `group_send`) and "flush".
    """

    MAX_NAME_LENGTH = 100

    extensions: list[str] = []

    def __init__(self, expiry: float = 60, capacity: int = 100, channel_capacity: Capacities | None = None) -> None:
        """`expiry` is the seconds an unread message is kept; `capacity` how many unread messages a channel holds.

        `channel_capacity` maps globs or compiled patterns, matched against the full channel name, to capacities.
        """
        self.expiry = expiry
        self.capacity = capacity
        self.channel_capacity = self.compile_capacities(channel_capacity or {})

    # Sending and receiving

    async def send(self, channel: str, message: Message) -> None:
        """Puts `message` on `channel`, without waiting for a reader. Raises ChannelFull when it is at capacity."""
        raise NotImplementedError("send() should be implemented in a channel layer")

    async def receive(self, channel: str) -> Message:
        """The next message of `channel`. Cancelling it never loses a message."""
        raise NotImplementedError("receive() should be implemented in a channel layer")

    async def new_channel(self) -> str:
        """A new name for a channel that only the caller reads."""
        raise NotImplementedError("new_channel() should be implemented in a channel layer")

    async def flush(self) -> None:
        """Drops every message, channel and group membership."""
        raise NotImplementedError("flush() not implemented (flush extension)")

    async def group_add(self, group: str, channel: str) -> None:
        """Makes `channel` a member of `group`; a message sent after the return reaches it."""
        raise NotImplementedError("group_add() not implemented (groups extension)")

    async def group_discard(self, group: str, channel: str) -> None:
        """Ends the membership, if there is one."""
        raise NotImplementedError("group_discard() not implemented (groups extension)")

    async def group_send(self, group: str, message: Message) -> GroupSendResult | None:
        """Sends `message` to every member of `group`; members at capacity do not get it."""
        raise NotImplementedError("group_send() not implemented (groups extension)")

    def group_is_empty(self, group: str) -> bool:
        """Whether it is certain, without I/O, that a message to `group` would reach nobody."""
        return False

    async def check(self) -> None:
        """Raises LayerUnavailableError when the layer cannot work now: for start-up and readiness checks."""

    @property
    def connected(self) -> bool:
        """False while the layer knows that it is cut off from other processes."""
        return True

    @property
    def sync(self) -> SyncChannelLayer:
        """`send` and `group_send` for synchronous code. Layers with a synchronous client override it."""
        return _SyncByLoop(self)

    # Delivery to a function

    def attach(self, channel: str, deliver: Deliver) -> None:
        """Calls `deliver` with each message of `channel` from now on, in order, in the running event loop.

        Here by a task that calls `receive`, so that any layer can be used; our own layers call `deliver` directly.
        """
        task = asyncio.get_running_loop().create_task(self._read(channel, deliver))
        self._readers()[channel] = task

    def detach(self, channel: str) -> None:
        """Ends `attach` at once and drops the unread messages of `channel`. Does nothing if it is not attached."""
        task = self._readers().pop(channel, None)
        if task is not None and not task.get_loop().is_closed():
            task.cancel()

    def _readers(self) -> dict[str, asyncio.Task[None]]:
        # Not set in __init__: a layer of another package may not call it.
        readers: dict[str, asyncio.Task[None]] = self.__dict__.setdefault("_attached_readers", {})
        return readers

    async def _read(self, channel: str, deliver: Deliver) -> None:
        while True:
            try:
                deliver(await self.receive(channel))
            except Exception:
                # A layer of another package: when it has lost its server, it raises here until the server is back.
                logger.exception("receiving from channel %s failed; trying again in %g s", channel, READER_RETRY_S)
                await asyncio.sleep(READER_RETRY_S)

    # Capacities

    def compile_capacities(
        self, channel_capacity: "Capacities | Iterable[tuple[re.Pattern[str], int]]"
    ) -> list[tuple[re.Pattern[str], int]]:
        """The (pattern, capacity) pairs of a mapping whose keys are globs or compiled patterns, in its order."""
        pairs = channel_capacity.items() if isinstance(channel_capacity, Mapping) else channel_capacity
        return [
            (re.compile(fnmatch.translate(pattern)) if isinstance(pattern, str) else pattern, capacity)
            for pattern, capacity in pairs
        ]

    def get_capacity(self, channel: str) -> int:
        """The capacity of the first pattern that matches the full channel name, else the default."""
        for pattern, capacity in self.channel_capacity:
            if pattern.match(channel):
                return capacity
        return self.capacity

    # Names. Our layers take any string and escape it (validation.py); these check the documented, portable form.

    channel_name_regex = re.compile(r"^[a-zA-Z\d\-_.]+(\![\d\w\-_.]*)?$")
    group_name_regex = re.compile(r"^[a-zA-Z\d\-_.]+$")
    invalid_name_error = (
        f"{{}} name must be a valid unicode string with length < {MAX_NAME_LENGTH} "
        "containing only ASCII alphanumerics, hyphens, underscores, or periods."
    )

    def match_type_and_length(self, name: object) -> bool:
        """Whether `name` is a string shorter than MAX_NAME_LENGTH."""
        return isinstance(name, str) and len(name) < self.MAX_NAME_LENGTH

    def require_valid_channel_name(self, name: str, receive: bool = False) -> bool:
        """True, or TypeError when `name` is not a channel name that every layer of every package takes."""
        if not self.match_type_and_length(name) or not self.channel_name_regex.match(name):
            raise TypeError(self.invalid_name_error.format("Channel"))
        if receive and "!" in name and not name.endswith("!"):
            raise TypeError("Specific channel names in receive() must end at the !")
        return True

    def require_valid_group_name(self, name: str) -> bool:
        """True, or TypeError when `name` is not a group name that every layer of every package takes."""
        if not self.match_type_and_length(name) or not self.group_name_regex.match(name):
            raise TypeError(self.invalid_name_error.format("Group"))
        return True

    def valid_channel_names(self, names: list[str], receive: bool = False) -> bool:
        """True, or TypeError as `require_valid_channel_name` when one of `names` is not valid."""
        assert isinstance(names, list), "names must be a non-empty list"
        assert names, "names must be a non-empty list"
        return all(self.require_valid_channel_name(name, receive=receive) for name in names)

    def valid_channel_name(self, channel_name: str, receive: bool = False) -> bool:
        """Deprecated: `require_valid_channel_name`."""
        warnings.warn(
            "valid_channel_name is deprecated, use require_valid_channel_name instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.require_valid_channel_name(channel_name, receive=receive)

    def valid_group_name(self, group_name: str) -> bool:
        """Deprecated: `require_valid_group_name`."""
        warnings.warn(
            "valid_group_name is deprecated, use require_valid_group_name instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.require_valid_group_name(group_name)

    def non_local_name(self, name: str) -> str:
        """`name` up to its "!", with it, or all of it: the part that names the process that reads the channel."""
        process, mark, _ = name.partition("!")
        return process + mark


def require_message(message: object) -> None:
    """Raises AssertionError, as Channels does, when `message` is not a dict that may be sent over a layer."""
    assert isinstance(message, dict), "message is not a dict"
    assert "__asgi_channel__" not in message, "message may not have the key __asgi_channel__"


def run_now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, without an event loop. Raises RuntimeError if it does wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise RuntimeError("this needs an event loop")


class _SyncByLoop:
    """Runs the coroutines of a layer that has no synchronous client."""

    def __init__(self, layer: BaseChannelLayer) -> None:
        self._layer = layer

    def send(self, channel: str, message: Message) -> None:
        from asgiref.sync import async_to_sync

        async_to_sync(self._layer.send)(channel, message)

    def group_send(self, group: str, message: Message) -> GroupSendResult:
        from asgiref.sync import async_to_sync

        return async_to_sync(self._layer.group_send)(group, message) or NOBODY
