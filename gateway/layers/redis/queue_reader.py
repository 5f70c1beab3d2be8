"""One queue in Redis: the scripts that push and take its elements, and the connection that reads it.

A queue is a list, oldest first; an element is its deadline, thirteen digits of milliseconds on Redis's own clock, then
the payload. The order is that of arrival at Redis: no sender's clock takes part. Each script touches one key, so that
it runs on a cluster.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from redis.exceptions import AskError, MovedError, NoScriptError, TryAgainError

from gateway.layers.redis.connection import Locate, RedisConnection, Script
from gateway.layers.redis.hosts import Host

BLOCK_S: Final = 5
IDLE_S: Final = 10
BATCH: Final = 100
BETWEEN_NODES_S: Final = 0.1
DEADLINE_BYTES: Final = 13

PUSH: Final = Script("""
-- KEYS: queue. ARGV: payload, capacity, expiry in ms, 'front' or 'back'. 1, or 0 when the queue is full.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local head = redis.call('LINDEX', KEYS[1], 0)
while head and (tonumber(string.sub(head, 1, 13)) or math.huge) <= now do
  redis.call('LPOP', KEYS[1])
  head = redis.call('LINDEX', KEYS[1], 0)
end
local element = string.format('%013d', now + ARGV[3]) .. ARGV[1]
if ARGV[4] == 'front' then
  redis.call('LPUSH', KEYS[1], element)
elseif redis.call('LLEN', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
else
  redis.call('RPUSH', KEYS[1], element)
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
""")

TAKE: Final = Script("""
-- KEYS: queue. ARGV: how many at most. The elements taken, without those that have expired.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local taken = {}
while #taken < tonumber(ARGV[1]) do
  local element = redis.call('LPOP', KEYS[1])
  if not element then
    break
  end
  -- What is no element of ours is for the reader to count.
  if (tonumber(string.sub(element, 1, 13)) or math.huge) > now then
    taken[#taken + 1] = element
  end
end
return taken
""")

SCRIPTS: Final = (PUSH, TAKE)


class QueueReader(RedisConnection):
    """Takes elements off a queue, first what is there, then each as it comes (BLPOP).

    A take that Redis has begun is never cancelled. At any time Redis has at most one request of this reader.
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
        """`wanted()` returns how many elements are waited for; None: all, always. `on_message(payload)` per element.

        `on_idle` is called when no element was wanted for IDLE_S.
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
        """Takes every element from now on."""
        self._wanted = None
        self.wanted_soon()

    def wanted_soon(self) -> None:
        """Asks, at the end of this loop iteration, for as many elements as are wanted then."""
        self.start()
        if self._requested is None:
            self._loop.call_soon(self._request_if_wanted)

    @property
    def blocked(self) -> bool:
        """Whether the next element goes to this reader; `CLIENT UNBLOCK client_id` ends that."""
        return self._requested == "wait"

    def _count(self) -> int:
        return BATCH if self._wanted is None else min(self._wanted(), BATCH)

    def _request_if_wanted(self) -> None:
        if self.up and self._requested is None:
            count = self._count()
            if count:
                self._request("take", "EVALSHA", TAKE.digest, 1, self._key, count)

    def _request(self, kind: str, *arguments: Any) -> None:
        self._requested = kind
        self._write(*arguments)

    def _on_up(self) -> None:
        self._requested = None
        self._request("identify", "CLIENT", "ID")

    def _on_reply(self, reply: Any) -> bool:
        requested, self._requested = self._requested, None
        if isinstance(reply, NoScriptError):
            self._request("take", "EVAL", TAKE.text, 1, self._key, self._count() or 1)
            return True
        if requested == "identify":
            self.client_id = reply if isinstance(reply, int) else None  # an ACL may forbid the command
            self._request_if_wanted()
        elif isinstance(reply, AskError | TryAgainError) and not isinstance(reply, MovedError):
            # The slot is moving to another node; once it is there, the answer is MOVED.
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
        if self._lost:  # not sooner: the first answer of a node that is back may be that its cluster is down
            self._lost = False
            self._on_reconnect()
        for element in elements:
            self._on_message(element[DEADLINE_BYTES:])
        if elements:
            # Whoever got one runs first, and may want another.
            self._loop.call_soon(self._request_if_wanted)
        elif self._count():
            self._request("wait", "BLPOP", self._key, BLOCK_S)

    def _waited(self, reply: list[bytes] | None) -> None:
        if reply is not None:
            # It came while this reader was waiting, so it cannot have expired.
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
