"""Sessions and retained messages in a Redis server.

    fieldgate:mqtt:format       the version of the format
    fieldgate:mqtt:owner        the place of who uses it; expires OWNER_TTL_S after its process last said it lives
    fieldgate:mqtt:generation   how many have used it so far
    fieldgate:mqtt:KIND         a hash per kind of row: packed key -> packed row

One process at a time: the broker works in memory, so two of them on the same rows would each forget what the other
promised. Every commit is a transaction that fails if there is a later generation, or if Redis has forgotten which, and
so the rows. What a commit survives is what the Redis
server is configured for: the end of the gateway in any case, that of Redis with `appendonly yes`, a power cut with
`appendfsync always`.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from protocols.mqtt.storage.rows import (
    DELIVERIES,
    KINDS,
    RETAINED,
    SESSIONS,
    Changes,
    NewerFormatError,
    Row,
    RowKind,
    Store,
    StoreError,
    StoreTakenError,
)

PREFIX: Final = "fieldgate:mqtt:"
OWNER_TTL_S: Final = 10.0
TIMEOUT_S: Final = 5.0
"""How long Redis may take to answer; less than OWNER_TTL_S, so that a commit cannot come back from the dead."""
_GENERATION_KEY: Final = PREFIX + "generation"
_POLL_S: Final = 0.2
_FORMAT_KEY: Final = PREFIX + "format"
_OWNER_KEY: Final = PREFIX + "owner"
_SCAN: Final = 1_000

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(tuple).decode


def _create(client: "redis.Redis") -> None:
    """Hashes are there when they are written to."""


def _add_share_and_publisher(client: "redis.Redis") -> None:
    _add_empty_column(client, {DELIVERIES: 9, RETAINED: 6})


def _add_owner(client: "redis.Redis") -> None:
    _add_empty_column(client, {SESSIONS: 7, RETAINED: 7})


def _add_empty_column(client: "redis.Redis", columns_of: Mapping[RowKind, int]) -> None:
    """To the rows that have fewer columns than they are to have then."""
    for kind, columns in columns_of.items():
        for key, packed in client.hscan_iter(PREFIX + kind.name, count=_SCAN):
            row = _unpack(packed)
            if len(row) < columns:
                client.hset(PREFIX + kind.name, key, _pack((*row, "")))


MIGRATIONS: Final[Sequence[Callable[["redis.Redis"], None]]] = (_create, _add_share_and_publisher, _add_owner)
"""What brings the rows from the format of each index to the next; an empty database has format 0."""


class RedisStore(Store):
    """Rows in one Redis database."""

    def __init__(
        self,
        url: str,
        *,
        place: str,
        wait_s: float = OWNER_TTL_S + 1,
        migrations: Sequence[Callable[["redis.Redis"], None]] = MIGRATIONS,
    ) -> None:
        """`place` names what only one process at a time can have, such as a host's data directory: a gateway that
        starts where the last owner was does not wait for that one's time to run out. Another waits, up to `wait_s`."""
        # The client's own attempts, one after the other, would take longer than the process stays the owner.
        self._client = redis.Redis.from_url(
            url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
        )
        self._place = place
        self._wait_s = wait_s
        self._migrations = migrations
        self._generation = 0

    def open(self) -> None:
        """Waits while the owner of before may be alive."""
        give_up_at = time.monotonic() + self._wait_s
        try:
            while not self._take():
                if time.monotonic() > give_up_at:
                    raise StoreTakenError("the MQTT sessions in this Redis are in use by another gateway")
                time.sleep(_POLL_S)
            self._migrate()
        except redis.RedisError as error:
            raise StoreError(f"cannot use Redis: {error}") from error

    def _take(self) -> bool:
        """Becomes the owner, if there is none or it was here, where there is nobody else."""
        with self._client.pipeline() as pipeline:
            pipeline.watch(_OWNER_KEY)
            if pipeline.get(_OWNER_KEY) not in (None, self._place.encode()):
                return False
            pipeline.multi()
            self._stay(pipeline)
            pipeline.incr(_GENERATION_KEY)
            try:
                self._generation = pipeline.execute()[-1]
            except redis.WatchError:
                return False
        return True

    def _stay(self, pipeline: Any) -> None:
        pipeline.set(_OWNER_KEY, self._place, px=int(OWNER_TTL_S * 1000))

    def _migrate(self) -> None:
        """Each step, should it be interrupted, is done again: it has to bear that."""
        version, newest = int(self._client.get(_FORMAT_KEY) or 0), len(self._migrations)
        if version > newest:
            self.close()
            raise NewerFormatError("Redis", version, newest)
        for number in range(version, newest):
            self._migrations[number](self._client)
            self._client.set(_FORMAT_KEY, number + 1)

    def load(self) -> Mapping[RowKind, Iterable[Row]]:
        try:
            return {kind: self._rows(kind) for kind in KINDS}
        except redis.RedisError as error:
            raise StoreError(f"cannot read from Redis: {error}") from error

    def _rows(self, kind: RowKind) -> list[Row]:
        rows = dict(self._client.hscan_iter(PREFIX + kind.name, count=_SCAN))  # which may give a row twice
        return sorted((_unpack(row) for row in rows.values()), key=lambda row: row[: kind.key_width])

    def write(self, changes: Changes) -> None:
        self._transact(changes)

    def keep(self) -> None:
        self._transact(Changes())

    def _transact(self, changes: Changes) -> None:
        try:
            with self._client.pipeline() as pipeline:
                pipeline.watch(_GENERATION_KEY)
                match pipeline.get(_GENERATION_KEY):
                    case None:
                        raise StoreTakenError("Redis has lost the MQTT sessions that it kept")
                    case generation if int(generation) != self._generation:
                        raise StoreTakenError("another gateway has taken over the MQTT sessions in Redis")
                pipeline.multi()
                self._stay(pipeline)
                for kind, rows in changes.put.items():
                    if rows:
                        mapping: dict[Any, Any] = {_pack(row[: kind.key_width]): _pack(row) for row in rows}
                        pipeline.hset(PREFIX + kind.name, mapping=mapping)
                for kind, keys in changes.removed.items():
                    if keys:
                        pipeline.hdel(PREFIX + kind.name, *map(_pack, keys))
                pipeline.execute()
        except redis.WatchError as error:
            raise StoreTakenError("another gateway is taking over the MQTT sessions in Redis") from error
        except redis.RedisError as error:
            raise StoreError(f"cannot write to Redis: {error}") from error

    def close(self) -> None:
        """The next owner does not have to wait."""
        try:
            with self._client.pipeline() as pipeline:
                pipeline.watch(_GENERATION_KEY)
                if self._generation and int(pipeline.get(_GENERATION_KEY) or 0) == self._generation:
                    pipeline.multi()
                    pipeline.delete(_OWNER_KEY)
                    pipeline.execute()
        except redis.RedisError:
            pass  # it runs out
        self._client.close()
