"""The reader of one queue in Redis: one connection that waits there for the elements, as long as they are wanted."""

import asyncio
from collections.abc import Callable
from typing import Any

from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from gateway.layers.redis.hosts import Host
from gateway.layers.redis.link import Link, Locate
from gateway.layers.redis.scripts import DEADLINE_BYTES, DIGESTS, TAKE

BLOCK_S = 5
IDLE_S = 10
BATCH = 100
BETWEEN_NODES_S = 0.1


class QueueReader(Link):
    """Takes elements off a queue, first what is there, then each as it comes (BLPOP).

    A take that Redis has begun is never cancelled. Redis has one request of this link at any time, or none.
    """

    purpose = "queue"

    def __init__(
        self,
        host: Host,
        key: bytes,
        *,
        wanted: Callable[[], int] | None,
        on_message: Callable[[bytes], None],
        on_disconnect: Callable[[], None],
        on_reconnect: Callable[[], None],
        on_idle: Callable[[], None],
        locate: Locate | None = None,
    ) -> None:
        """`wanted` says how many elements somebody waits for; None: all, always. `on_message(payload)` per element.

        `on_idle` is called when nobody has waited for some time.
        """
        super().__init__(host, locate)
        # A blocked request is answered this much later than asked.
        self.patience_s = BLOCK_S
        self._key = key
        self._wanted = wanted
        self._on_message = on_message
        self._on_disconnect = on_disconnect
        self._on_reconnect = on_reconnect
        self._on_idle = on_idle
        self._requested: str | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._lost = False
        self.client_id: int | None = None

    def read_on(self) -> None:
        """From now on takes all that comes."""
        self._wanted = None
        self.wanted_soon()

    def wanted_soon(self) -> None:
        """Looks at the end of this pass of the loop how many are wanted, and asks for them."""
        self.start()
        if self._requested is None:
            self._loop.call_soon(self._request_if_wanted)

    @property
    def blocked(self) -> bool:
        """Whether the next element goes to this link; `CLIENT UNBLOCK client_id` ends that."""
        return self._requested == "wait"

    def _count(self) -> int:
        return BATCH if self._wanted is None else min(self._wanted(), BATCH)

    def _request_if_wanted(self) -> None:
        if self.up and self._requested is None:
            count = self._count()
            if count:
                self._request("take", "EVALSHA", DIGESTS[TAKE], 1, self._key, count)

    def _request(self, kind: str, *arguments: Any) -> None:
        self._requested = kind
        self._write(*arguments)

    def _on_up(self) -> None:
        self._requested = None
        self._request("identify", "CLIENT", "ID")

    def _on_reply(self, reply: Any) -> bool:
        requested, self._requested = self._requested, None
        if isinstance(reply, NoScriptError):
            self._request("take", "EVAL", TAKE, 1, self._key, self._count() or 1)
            return True
        if requested == "identify":
            self.client_id = reply if isinstance(reply, int) else None  # an ACL may forbid to ask
            self._request_if_wanted()
        elif isinstance(reply, AskError | TryAgainError) and not isinstance(reply, MovedError):
            # The slot is on its way to another node, which says so when it has arrived.
            self._loop.call_later(BETWEEN_NODES_S, self._request_if_wanted)
        elif isinstance(reply, Exception):
            raise reply
        elif requested == "take":
            self._took(reply)
        elif requested == "wait":
            self._waited(reply)
        else:
            self._request_if_wanted()
        return self._requested is not None

    def _took(self, elements: list[bytes]) -> None:
        if self._lost:  # not sooner: a node that has come back may first say that its cluster is down
            self._lost = False
            self._on_reconnect()
        for element in elements:
            self._on_message(element[DEADLINE_BYTES:])
        if elements:
            # Those who got one run first, and may want another.
            self._loop.call_soon(self._request_if_wanted)
        elif self._count():
            self._request("wait", "BLPOP", self._key, BLOCK_S)

    def _waited(self, reply: list[bytes] | None) -> None:
        if reply is not None:
            # It came while this was waiting, so it cannot have expired.
            self._on_message(reply[1][DEADLINE_BYTES:])
        if self._idle_timer is None and not self._count():
            self._idle_timer = self._loop.call_later(IDLE_S, self._end_if_idle)
        self._loop.call_soon(self._request_if_wanted)

    def _end_if_idle(self) -> None:
        self._idle_timer = None
        if self._requested is None and not self._count():
            self._on_idle()

    def _on_lost(self, was_up: bool) -> None:
        if was_up and not self._lost:
            self._lost = True
            self._on_disconnect()

    def _ping(self) -> None:
        if self._requested is None:
            self._request("ping", "PING")
