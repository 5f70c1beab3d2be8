"""One URL instead of CHANNEL_LAYERS: what the gateway's configuration calls `[layer] url`.

- `memory://`: in-memory, one process;
- `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS), `unix:///path/to/socket`: Redis publish/subscribe;
- `redis+pubsub://`, `rediss+pubsub://`: the same, written out;
- `redis+core://`, `rediss+core://`: Redis lists, for workers that share the messages of a channel;
- `redis+sentinel://[user:password@]host[:port],host[:port].../master[/db]`, `rediss+sentinel://`: publish/subscribe on
  the master that the Sentinels name.
- `redis+cluster://[user:password@]host[:port],host[:port]...`, `rediss+cluster://`: publish/subscribe on a Redis
  Cluster, some of whose nodes are named; `redis+core+cluster://`: lists there.

The query has options of the layer, those that are text or a number, and options of the connection, which are those of
redis-py (socket_timeout, ssl_ca_certs, ...).
"""

import dataclasses
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from gateway import DEFAULT_CHANNEL_LAYER
from gateway.exceptions import InvalidChannelLayerError
from gateway.layers.redis.options import RedisOptions

MEMORY = "gateway.layers.InMemoryChannelLayer"
PUBSUB = "gateway.layers.pubsub.RedisPubSubChannelLayer"
CORE = "gateway.layers.redis.RedisChannelLayer"

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379

LAYER_OPTIONS: Final = {
    field.name: field.type for field in dataclasses.fields(RedisOptions) if field.type in (str, float, int)
}
"""The options of a layer that the query may have, and their types."""


def channel_layers_from_url(url: str) -> dict[str, dict[str, Any]]:
    """CHANNEL_LAYERS with the layer that `url` describes as its default.

    Raises InvalidChannelLayerError when the URL is none of the forms above; its text has no password.
    """
    parts = urlsplit(url)
    config, connection = _options(parts.query)
    transport, _, kind = parts.scheme.partition("+")
    match transport, kind:
        case "memory", "":
            return _layers(MEMORY, config, unused=connection)
        case (("redis" | "rediss"), "sentinel"):
            config["hosts"] = [_sentinels(url, connection)]
            return _layers(PUBSUB, config)
        case (("redis" | "rediss"), ("cluster" | "pubsub+cluster" | "core+cluster")):
            config["hosts"] = [_cluster(url, connection)]
            return _layers(CORE if kind.startswith("core") else PUBSUB, config)
        case (("redis" | "rediss" | "unix"), ("" | "pubsub" | "core")):
            address = parts._replace(scheme=transport, query=urlencode(connection)).geturl()
            # urlunsplit writes "unix:/path" for an empty host, which redis-py does not take.
            config["hosts"] = [address.replace("unix:/", "unix:///", 1) if "://" not in address else address]
            return _layers(CORE if kind == "core" else PUBSUB, config)
    raise InvalidChannelLayerError(
        f"a channel layer URL begins with memory://, redis://, rediss://, unix://, redis+pubsub://, redis+core://, "
        f"redis+sentinel:// or redis+cluster://, not with {parts.scheme!r}"
    )


def _layers(backend: str, config: dict[str, Any], unused: dict[str, str] | None = None) -> dict[str, dict[str, Any]]:
    if unused:
        raise InvalidChannelLayerError(f"unknown option of a channel layer URL: {', '.join(sorted(unused))}")
    return {DEFAULT_CHANNEL_LAYER: {"BACKEND": backend, "CONFIG": config}}


def _options(query: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of the query that are the layer's, and the others."""
    config: dict[str, Any] = {}
    connection: dict[str, str] = {}
    for name, value in parse_qsl(query):
        if name not in LAYER_OPTIONS:
            connection[name] = value
            continue
        try:
            config[name] = LAYER_OPTIONS[name](value)
        except ValueError:
            raise InvalidChannelLayerError(f"the option {name} of a channel layer URL is a number") from None
    return config, connection


def _sentinels(url: str, connection: dict[str, str]) -> dict[str, Any]:
    parts = urlsplit(url)
    addresses = parts.netloc.rpartition("@")[2]
    master, _, database = parts.path.strip("/").partition("/")
    if not master:
        raise InvalidChannelLayerError("a redis+sentinel:// URL names its master: redis+sentinel://host:26379/mymaster")
    host: dict[str, Any] = {
        "sentinels": [_address(address, DEFAULT_SENTINEL_PORT) for address in addresses.split(",")],
        "master_name": unquote(master),
    }
    if database:
        host["db"] = int(database)
    return {**host, **_connection(url, connection)}


def _cluster(url: str, connection: dict[str, str]) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.path.strip("/"):
        raise InvalidChannelLayerError("a redis+cluster:// URL has no path: a cluster has one database, and no name")
    addresses = parts.netloc.rpartition("@")[2]
    nodes = [_address(address, DEFAULT_PORT) for address in addresses.split(",")]
    return {"cluster": nodes, **_connection(url, connection)}


def _connection(url: str, connection: dict[str, str]) -> dict[str, Any]:
    """The options of each connection: those of the query, the login and TLS."""
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    host: dict[str, Any] = {key: _scalar(value) for key, value in connection.items()}
    username, _, password = login.partition(":")
    if username:
        host["username"] = unquote(username)
    if password:
        host["password"] = unquote(password)
    if parts.scheme.startswith("rediss"):
        host["ssl"] = True
    return host


def _address(address: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{address}")
    if not parts.hostname:
        raise InvalidChannelLayerError("this channel layer URL has hosts: redis+cluster://host:6379,host:6379")
    return parts.hostname, parts.port or default_port


def _scalar(text: str) -> str | float | bool:
    """The value of an option of redis-py, converted as redis-py converts it in its own URLs."""
    if text.lower() in ("true", "yes", "false", "no"):
        return text.lower() in ("true", "yes")
    try:
        return float(text)
    except ValueError:
        return text
