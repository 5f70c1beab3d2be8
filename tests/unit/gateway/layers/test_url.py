"""`[layer] url`: each documented form, and what is refused."""

from typing import Any

import pytest

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers.redis.hosts import describe_host
from gateway.layers.url import CORE, MEMORY, PUBSUB, channel_layers_from_url


@pytest.mark.parametrize(
    ("url", "backend", "config"),
    [
        ("memory://", MEMORY, {}),
        ("memory://?capacity=5&expiry=1.5", MEMORY, {"capacity": 5, "expiry": 1.5}),
        ("redis://h", PUBSUB, {"hosts": ["redis://h"]}),
        ("redis://u:p%40@h:1/2", PUBSUB, {"hosts": ["redis://u:p%40@h:1/2"]}),
        ("rediss://h?ssl_ca_certs=/ca", PUBSUB, {"hosts": ["rediss://h?ssl_ca_certs=%2Fca"]}),
        ("redis+pubsub://h/1?prefix=x", PUBSUB, {"hosts": ["redis://h/1"], "prefix": "x"}),
        ("rediss+core://h", CORE, {"hosts": ["rediss://h"]}),
        ("unix:///run/redis.sock?db=1", PUBSUB, {"hosts": ["unix:///run/redis.sock?db=1"]}),
        (
            "redis+sentinel://u:p@a:1,b/main/3?socket_timeout=4",
            PUBSUB,
            {
                "hosts": [
                    {
                        "sentinels": [("a", 1), ("b", 26379)],
                        "master_name": "main",
                        "db": 3,
                        "username": "u",
                        "password": "p",
                        "socket_timeout": 4.0,
                    }
                ]
            },
        ),
        ("redis+cluster://a,b:7001", PUBSUB, {"hosts": [{"cluster": [("a", 6379), ("b", 7001)]}]}),
        (
            "rediss+core+cluster://u:p@a:1?sharded=no&prefix=x",
            CORE,
            {
                "hosts": [
                    {"cluster": [("a", 1)], "sharded": False, "username": "u", "password": "p", "ssl": True},
                ],
                "prefix": "x",
            },
        ),
        (
            "rediss+sentinel://[::1]:5/main",
            PUBSUB,
            {"hosts": [{"sentinels": [("::1", 5)], "master_name": "main", "ssl": True}]},
        ),
    ],
)
def test_a_url_names_a_backend_and_its_config(url: str, backend: str, config: dict[str, Any]) -> None:
    assert channel_layers_from_url(url) == {"default": {"BACKEND": backend, "CONFIG": config}}


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost",
        "amqp://h",
        "redis+x://h",
        "memory://?x=1",
        "redis://h?capacity=a",
        "redis+sentinel://h",
        "redis+cluster://h/1",
    ],
)
def test_anything_else_is_an_error_without_the_password(url: str) -> None:
    with pytest.raises(InvalidChannelLayerError):
        channel_layers_from_url(url)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ({"address": "redis://user:secret@h:1/2?password=secret"}, "redis://h:1/2"),
        ({"host": "h", "port": 1, "password": "secret"}, "h:1"),
        ({"path": "/run/redis.sock"}, "/run/redis.sock"),
        ({"sentinels": [("a", 1), ("b", 2)], "master_name": "main"}, "main of sentinels a:1, b:2"),
    ],
)
def test_a_host_is_described_without_its_secrets(host: dict[str, Any], text: str) -> None:
    assert describe_host(host) == text
