"""Where the layers over Redis send commands and subscribe: single servers here, a cluster in cluster.py.

The layers say for which key; which server, and which connection to it, is decided behind these interfaces.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack

from gateway.layers.redis.hosts import Host, shard_of
from gateway.layers.redis.link import Argument, CommandLink, Locate
from gateway.layers.redis.subscriptions import SubscriberLink

Owns: TypeAlias = Callable[[bytes], bool]
"""Whether a key is among those that are meant."""


class Hooks(TypedDict):
    """What subscriptions call: `on_lost` is told which keys are cut off, `on_back` which are subscribed again."""

    on_message: Callable[[bytes, bytes], None]
    on_lost: Callable[[Owns], None]
    on_back: Callable[[Owns], None]


class Scripts(Protocol):
    """Lua scripts, each with one key, run on the server of that key."""

    async def run_script(self, script: str, key: bytes, arguments: Sequence[Argument]) -> Any:
        """The reply. LayerUnavailableError, at once where that is known, when there is none."""


class Commands(Scripts, Protocol):
    """Commands and scripts, each with one key, sent to the server of that key."""

    @property
    def links(self) -> Sequence[CommandLink]:
        """The connections to all servers that are known."""

    async def connect(self) -> None:
        """Finds the servers, if they have to be found."""

    async def execute(self, key: bytes, *arguments: Argument) -> Any:
        """The reply. LayerUnavailableError, at once where that is known, when there is none."""

    def execute_quietly(self, key: bytes, *arguments: Argument) -> None:
        """Sends a command whose reply nobody needs, as soon as it is called."""

    async def publish(self, key: bytes, payload: bytes) -> None:
        """Gives `payload` to who has subscribed to `key`."""

    def is_down(self, key: bytes) -> bool:
        """Whether the server of `key` is known to be away."""

    def was_up(self, key: bytes) -> bool:
        """Whether the server of `key` ever was there."""

    def where(self, key: bytes) -> tuple[Host, Locate | None]:
        """The server of `key`, for a connection of one's own, which asks again before each attempt."""

    async def close(self) -> None:
        """Ends the connections. They are made again when used."""


class Subscriptions(Protocol):
    """Keys subscribed to, now and again after each reconnection."""

    @property
    def down(self) -> bool:
        """Whether messages are known to be missed now."""

    async def subscribe(self, key: bytes) -> None:
        """Returns when subscribed, or when that waits for a lost connection; raises if there never was one."""

    def want(self, key: bytes) -> None:
        """Subscribes, without waiting for it."""

    def unsubscribe(self, key: bytes) -> None:
        """Ends the subscription, if there is one."""

    async def close(self) -> None:
        """Ends the subscriptions and the connections."""


class HostCommands:
    """Commands for servers in a fixed list, over which the keys are spread."""

    def __init__(self, hosts: Sequence[Host], scripts: Mapping[str, str] | None = None) -> None:
        self._hosts = hosts
        self.links = [CommandLink(host, scripts=scripts) for host in hosts]

    def _link(self, key: bytes) -> CommandLink:
        return self.links[shard_of(key, len(self.links))]

    async def connect(self) -> None:
        pass

    async def execute(self, key: bytes, *arguments: Argument) -> Any:
        return await self._link(key).execute(*arguments)

    def execute_quietly(self, key: bytes, *arguments: Argument) -> None:
        self._link(key).execute_quietly(*arguments)

    async def run_script(self, script: str, key: bytes, arguments: Sequence[Argument]) -> Any:
        return await self._link(key).run_script(script, key, arguments)

    async def publish(self, key: bytes, payload: bytes) -> None:
        await self._link(key).execute("PUBLISH", key, payload)

    def is_down(self, key: bytes) -> bool:
        return self._link(key).down

    def was_up(self, key: bytes) -> bool:
        return self._link(key).ever_up

    def where(self, key: bytes) -> tuple[Host, Locate | None]:
        return self._hosts[shard_of(key, len(self._hosts))], None

    async def close(self) -> None:
        for link in self.links:
            await link.close()


class HostSubscriptions:
    """Subscriptions on servers in a fixed list, over which the keys are spread."""

    def __init__(self, hosts: Sequence[Host], **hooks: Unpack[Hooks]) -> None:
        def link(shard: int, host: Host) -> SubscriberLink:
            def owns(key: bytes) -> bool:
                return shard_of(key, len(hosts)) == shard

            return SubscriberLink(
                host,
                on_message=hooks["on_message"],
                on_disconnect=lambda: hooks["on_lost"](owns),
                on_reconnect=lambda: hooks["on_back"](owns),
            )

        self._links = [link(shard, host) for shard, host in enumerate(hosts)]

    def _link(self, key: bytes) -> SubscriberLink:
        return self._links[shard_of(key, len(self._links))]

    @property
    def down(self) -> bool:
        return any(link.down for link in self._links)

    async def subscribe(self, key: bytes) -> None:
        link = self._link(key)
        if not await link.subscribe(key) and not link.ever_up:
            link.wanted.discard(key)
            raise link.unavailable()

    def want(self, key: bytes) -> None:
        self._link(key).want(key)

    def unsubscribe(self, key: bytes) -> None:
        self._link(key).unsubscribe(key)

    async def close(self) -> None:
        for link in self._links:
            link.wanted.clear()
            await link.close()


async def check_all(commands: Commands) -> None:
    """Raises LayerUnavailableError unless every server answers."""
    await commands.connect()
    links: Iterable[CommandLink] = list(commands.links)
    for link in links:
        await link.execute("PING")
