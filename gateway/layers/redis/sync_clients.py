"""Plain synchronous clients, for the layers' `sync`: made when first used, safe to share between threads and forks."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from gateway.layers.base import LayerUnavailableError
from gateway.layers.redis.connection import REPLY_TIMEOUT_S, Argument, Script
from gateway.layers.redis.hosts import Host, describe_host, shard_of, sync_client

TIMEOUTS = {"socket_timeout": REPLY_TIMEOUT_S, "socket_connect_timeout": REPLY_TIMEOUT_S}


class SyncClients:
    """A client for each host of a layer."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._hosts = hosts
        self._clients: dict[int, Any] = {}
        self._sharded: bool | None = hosts[0].get("sharded") if "cluster" in hosts[0] else False
        self._lock = threading.Lock()

    def run(self, key: bytes, command: Callable[[Any], Any]) -> Any:
        """The result of `command(client)`, with the client for `key`. Raises LayerUnavailableError if Redis is away."""
        shard = shard_of(key, len(self._hosts))
        try:
            return command(self._client(shard))
        # RedisClusterException is none of the others.
        except (RedisError, RedisClusterException, OSError) as error:
            where = describe_host(self._hosts[shard])
            raise LayerUnavailableError(f"Redis at {where} is not available: {error}") from error

    def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        """The reply to `script`, strings as bytes."""

        def run(client: Any) -> Any:
            try:
                return client.execute_command("EVALSHA", script.digest, 1, key, *arguments, **{NEVER_DECODE: True})
            except NoScriptError:
                return client.execute_command("EVAL", script.text, 1, key, *arguments, **{NEVER_DECODE: True})

        return self.run(key, run)

    def publish(self, key: bytes, payload: bytes) -> None:
        """Publishes `payload` to the subscribers of `key`."""
        self.run(key, lambda client: self._publish(client, key, payload))

    def close(self) -> None:
        """Closes the connections, which open again when used."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            pool = getattr(client, "connection_pool", None)
            if pool is not None:
                pool.disconnect()  # which a client does not do to a pool that it was given
            else:
                client.close()

    def _client(self, shard: int) -> Any:
        client = self._clients.get(shard)
        if client is None:
            with self._lock:
                if shard not in self._clients:
                    self._clients[shard] = sync_client(self._hosts[shard], **TIMEOUTS)
                client = self._clients[shard]
        return client

    def _publish(self, client: Any, key: bytes, payload: bytes) -> None:
        if self._sharded is None:
            # As cluster.py decides. One node is asked, because not every redis-py can ask a cluster.
            node = client.get_redis_connection(client.get_random_node())
            self._sharded = any(node.execute_command("COMMAND INFO", "SPUBLISH"))
        if self._sharded:
            client.execute_command("SPUBLISH", key, payload)
        else:
            client.publish(key, payload)


class SyncScripts:
    """Scripts by synchronous clients, behind the interface `commands.Scripts`. Its coroutines never wait."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self._clients = SyncClients(hosts)

    async def run_script(self, script: Script, key: bytes, arguments: Sequence[Argument]) -> Any:
        return self._clients.run_script(script, key, arguments)

    async def close(self) -> None:
        self._clients.close()
