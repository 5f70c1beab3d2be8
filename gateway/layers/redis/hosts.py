"""The `hosts` option of the Redis layers: its forms, the connections made from them, and the shard of a name."""

import binascii
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.exceptions import RedisError

from gateway.exceptions import InvalidChannelLayerError

AsyncPool: TypeAlias = redis.asyncio.ConnectionPool
Host: TypeAlias = dict[str, Any]
Hosts: TypeAlias = Sequence["str | Sequence[Any] | Mapping[str, Any]"]

DEFAULT_HOST = "redis://localhost:6379"
RING_SIZE = 4096


def decode_hosts(hosts: Hosts | None) -> list[Host]:
    """Each entry of `hosts` as a dict of one of four kinds: with "address", "sentinels", "cluster", or with "host".

    Raises ValueError when `hosts` is a string or no list, InvalidChannelLayerError when no connection can be made from
    an entry (a wrong scheme, an unknown option), or when there is a cluster and another host. Connects to nothing.
    """
    if not hosts:
        return [{"address": DEFAULT_HOST}]
    if isinstance(hosts, str | bytes | Mapping) or not isinstance(hosts, Iterable):
        raise ValueError("You must pass a list of Redis hosts, even if there is only one.")  # noqa: TRY004
    decoded = [_decode_host(entry) for entry in hosts]
    if len(decoded) > 1 and any("cluster" in host for host in decoded):
        raise InvalidChannelLayerError("a Redis Cluster is the only host: it spreads the names over its nodes itself")
    return decoded


def _decode_host(entry: "str | Sequence[Any] | Mapping[str, Any]") -> Host:
    match entry:
        case Mapping():
            host = dict(entry)
            if "sentinels" in host and not host.get("master_name"):
                raise InvalidChannelLayerError("a Redis host with sentinels needs a master_name")
            for servers in {"sentinels", "cluster"} & host.keys():
                host[servers] = _addresses(servers, host[servers])
        case str():
            host = {"address": entry}
        case [str(name), port]:
            host = {"host": name, "port": port}
        case _:
            kind = type(entry).__name__  # not the value, which may hold a password
            raise InvalidChannelLayerError(f"a Redis host is a URL, a pair (host, port) or a dict, not this {kind}")
    try:
        async_pool(host).make_connection()
    except (TypeError, ValueError, RedisError) as error:
        raise InvalidChannelLayerError(f"wrong Redis host {describe_host(host)}: {error}") from error
    return host


def _addresses(name: str, pairs: Any) -> list[tuple[str, int]]:
    """`pairs` when they are some (host, port), else InvalidChannelLayerError."""
    try:
        addresses = [(host, int(port)) for host, port in pairs]
    except (TypeError, ValueError):
        addresses = []
    if not addresses or not all(isinstance(host, str) for host, _ in addresses):
        raise InvalidChannelLayerError(f"{name} of a Redis host is a list with at least one (host, port)")
    return addresses


def describe_host(host: Host) -> str:
    """The address of `host` for a log line, without user name, password and query."""
    if "sentinels" in host:
        sentinels = ", ".join(f"{name}:{port}" for name, port in host["sentinels"])
        return f"{host['master_name']} of sentinels {sentinels}"
    if "cluster" in host:
        return "cluster " + ", ".join(f"{name}:{port}" for name, port in host["cluster"])
    if "address" in host:
        scheme, mark, rest = str(host["address"]).rpartition("://")
        return f"{scheme}{mark}{rest.partition('?')[0].rpartition('@')[2]}"
    return str(host.get("path") or f"{host.get('host', 'localhost')}:{host.get('port', 6379)}")


def async_pool(host: Host, **defaults: Any) -> AsyncPool:
    """A pool for `host`, or for the first node of a cluster; `host` may override the options `defaults`."""
    options = {**defaults, **(node_host(host, host["cluster"][0]) if "cluster" in host else host)}
    if "address" in options:
        pool: AsyncPool = redis.asyncio.ConnectionPool.from_url(options.pop("address"), **options)
        return pool
    if "sentinels" in options:
        master, sentinel = _sentinel(redis.asyncio.sentinel.Sentinel, options)
        return redis.asyncio.sentinel.SentinelConnectionPool(master, sentinel, **options)
    if options.pop("ssl", False):
        options["connection_class"] = redis.asyncio.SSLConnection
    elif "path" in options:
        options["connection_class"] = redis.asyncio.UnixDomainSocketConnection
    return redis.asyncio.ConnectionPool(**options)


def node_host(host: Host, address: "Sequence[Any]") -> Host:
    """The node at `address` of the cluster `host`."""
    options = {name: value for name, value in host.items() if name not in ("cluster", "sharded")}
    return {**options, "host": address[0], "port": int(address[1])}


async def leave_sentinels(pool: AsyncPool) -> None:
    """Closes the connections of `pool` to Sentinels, which are needed only while it connects."""
    manager = getattr(pool, "sentinel_manager", None)
    for sentinel in manager.sentinels if manager is not None else ():
        await sentinel.connection_pool.disconnect()


def sync_pool(host: Host, **defaults: Any) -> redis.ConnectionPool:
    """As `async_pool`, for synchronous clients."""
    options = {**defaults, **host}
    if "address" in options:
        pool: redis.ConnectionPool = redis.ConnectionPool.from_url(options.pop("address"), **options)
        return pool
    if "sentinels" in options:
        master, sentinel = _sentinel(redis.sentinel.Sentinel, options)
        return redis.sentinel.SentinelConnectionPool(master, sentinel, **options)
    if options.pop("ssl", False):
        options["connection_class"] = redis.SSLConnection
    elif "path" in options:
        options["connection_class"] = redis.UnixDomainSocketConnection
    return redis.ConnectionPool(**options)


def sync_client(host: Host, **defaults: Any) -> "redis.Redis | redis.RedisCluster":
    """A synchronous client for `host`. That of a cluster connects at once."""
    if "cluster" not in host:
        return redis.Redis(connection_pool=sync_pool(host, **defaults))
    options = {**defaults, **host}
    options.pop("sharded", None)
    nodes = [redis.cluster.ClusterNode(name, int(port)) for name, port in options.pop("cluster")]
    return redis.RedisCluster(startup_nodes=nodes, **options)


def _sentinel(sentinel_class: Any, options: Host) -> tuple[str, Any]:
    master = options.pop("master_name")
    sentinels = options.pop("sentinels")
    # A sentinel that hangs must not keep us from asking the next one.
    timeouts = {"socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    sentinel_kwargs = {**timeouts, **(options.pop("sentinel_kwargs", None) or {})}
    return master, sentinel_class(sentinels, sentinel_kwargs=sentinel_kwargs)


def shard_of(name: bytes, shards: int) -> int:
    """The index of the host, of `shards` hosts, that keeps `name`: equal in processes with equal lists of hosts."""
    if shards == 1:
        return 0
    return (binascii.crc32(name) % RING_SIZE) * shards // RING_SIZE
