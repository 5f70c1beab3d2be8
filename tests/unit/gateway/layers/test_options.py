"""Options of a layer: the documented ones are those of the code, and a wrong one is an error when the layer is made."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import InMemoryChannelLayer, channel_layers
from gateway.layers.manager import make_group_log, make_presence
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.layers.redis.options import RedisOptions
from gateway.layers.serializers import JSONSerializer, SerializerDoesNotExist, registry
from gateway.layers.url import LAYER_OPTIONS, channel_layers_from_url

DOCUMENT = Path(__file__).parents[4] / "docs" / "channel-layers.md"

BOUNDS: list[tuple[dict[str, Any], str]] = [
    ({"expiry": "60"}, "expiry is a number of seconds, more than 0, not '60'"),
    ({"expiry": 0}, "expiry is a number of seconds, more than 0, not 0"),
    ({"group_expiry": None}, "group_expiry is a number of seconds, more than 0, not None"),
    ({"capacity": "100"}, "capacity is a whole number, more than 0, not '100'"),
    ({"capacity": 0}, "capacity is a whole number, more than 0, not 0"),
    ({"channel_capacity": ["chat"]}, "channel_capacity is a dict of patterns and numbers, not ['chat']"),
    ({"channel_capacity": {7: 1}}, "a pattern in channel_capacity is a string or compiled, not 7"),
    ({"channel_capacity": {"a*": "1"}}, "channel_capacity['a*'] is a whole number, more than 0, not '1'"),
]
HOSTS: list[tuple[Any, str]] = [
    ("redis://localhost", "You must pass a list of Redis hosts, even if there is only one."),
    ({"address": "redis://localhost"}, "You must pass a list of Redis hosts, even if there is only one."),
    (("localhost", 6379), "wrong Redis host localhost: Redis URL must specify one of the following schemes"),
    ([("redis://:secret@localhost",)], "a Redis host is a URL, a pair (host, port) or a dict, not this tuple"),
    ([None], "a Redis host is a URL, a pair (host, port) or a dict, not this NoneType"),
    ([("localhost", "six")], "wrong Redis host localhost:six: invalid literal for int()"),
    (["redis://u:secret@h?foo=1"], "wrong Redis host redis://h: "),
    ([{"address": "redis://u:secret@h", "sll": True}], "wrong Redis host redis://h: "),
    ([{"sentinels": [("a", 1)]}], "a Redis host with sentinels needs a master_name"),
    ([{"sentinels": "a", "master_name": "m"}], "sentinels of a Redis host is a list with at least one (host, port)"),
    ([{"cluster": []}], "cluster of a Redis host is a list with at least one (host, port)"),
    ([{"cluster": [("a", 1)]}, "redis://h"], "a Redis Cluster is the only host"),
]
REDIS_OPTIONS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"prefix": None}, AssertionError, "Prefix must be unicode"),
    ({"symmetric_encryption_keys": "key"}, ValueError, "symmetric_encryption_keys must be a list of possible keys"),
    ({"symmetric_encryption_keys": [None]}, ValueError, "each of symmetric_encryption_keys must be a string or bytes"),
    ({"symmetric_encryption_keys": [""]}, ValueError, "each of symmetric_encryption_keys must be a string or bytes"),
    ({"serializer_format": "yaml"}, SerializerDoesNotExist, "no serializer is registered for 'yaml', but for "),
    ({"on_disconnect": 5}, InvalidChannelLayerError, "on_disconnect is the type of an event or a function, not 5"),
    ({"unknown": 5}, TypeError, "ChannelLayer.__init__() got an unexpected keyword argument 'unknown'"),
    ({"capasity": 5}, TypeError, "got an unexpected keyword argument 'capasity'. Did you mean 'capacity'?"),
]

redis_layers = pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])


def test_every_option_of_a_redis_layer_is_documented_with_its_default() -> None:
    documented = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (yes )?\|", DOCUMENT.read_text(), re.MULTILINE)

    assert documented == [
        ("hosts", "None", ""),
        *(
            (field.name, repr(field.default), "yes " if field.name in LAYER_OPTIONS else "")
            for field in dataclasses.fields(RedisOptions)
        ),
    ]


def test_a_url_takes_every_option_that_is_text_or_a_number() -> None:
    query = "&".join(f"{name}=7" for name in LAYER_OPTIONS)

    config = channel_layers_from_url(f"redis://h?{query}")["default"]["CONFIG"]

    assert config.pop("hosts") == ["redis://h"]
    assert config == {name: option_type("7") for name, option_type in LAYER_OPTIONS.items()}
    RedisOptions(**config)


@pytest.mark.parametrize(("options", "error"), BOUNDS)
@pytest.mark.parametrize("layer_class", [InMemoryChannelLayer, RedisChannelLayer, RedisPubSubChannelLayer])
def test_bounds_are_numbers_over_0(layer_class: Any, options: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidChannelLayerError, match=re.escape(error)):
        layer_class(**options)


@pytest.mark.parametrize(("hosts", "error"), HOSTS)
@redis_layers
def test_hosts_are_checked_before_anybody_connects(layer_class: Any, hosts: Any, error: str) -> None:
    with pytest.raises(ValueError, match=re.escape(error)) as raised:
        layer_class(hosts=hosts)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(("options", "kind", "error"), REDIS_OPTIONS)
@redis_layers
def test_other_options_are_checked_too(
    layer_class: Any, options: dict[str, Any], kind: type[Exception], error: str
) -> None:
    with pytest.raises(kind, match=re.escape(error)):
        layer_class(**options)


def test_options_of_logs_and_presence_are_checked_too() -> None:
    with pytest.raises(InvalidChannelLayerError, match="length of a group log is a whole number, more than 0, not '5'"):
        make_group_log(InMemoryChannelLayer(), length="5")
    with pytest.raises(InvalidChannelLayerError, match="lease_s of presence is a number of seconds"):
        make_presence(RedisChannelLayer(), lease_s=0)


@redis_layers
def test_what_channels_redis_leaves_unset_may_be_written_out(layer_class: Any) -> None:
    layer_class(hosts=None, channel_capacity=None, symmetric_encryption_keys=None, random_prefix_length=12)
    RedisPubSubChannelLayer(on_disconnect=None, on_reconnect=None)


def test_a_serializer_for_channels_redis_pubsub_needs_to_know_of_keys_only() -> None:
    class OnlyKeys(JSONSerializer):
        def __init__(self, symmetric_encryption_keys: Any = None) -> None:
            super().__init__(symmetric_encryption_keys)

    registry.register_serializer("only keys", OnlyKeys)
    layer = RedisPubSubChannelLayer(serializer_format="only keys")

    assert layer.deserialize(layer.serialize({"type": "m"})) == {"type": "m"}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("channels.layers.InMemoryChannelLayer", "gateway.layers.InMemoryChannelLayer"),
        ("channels_redis.core.RedisChannelLayer", "gateway.layers.redis.RedisChannelLayer"),
        ("channels_redis.pubsub.RedisPubSubChannelLayer", "gateway.layers.pubsub.RedisPubSubChannelLayer"),
    ],
)
def test_the_layers_of_channels_are_answered_with_the_name_of_ours(settings: Any, theirs: str, ours: str) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": theirs}, "ours": {"BACKEND": ours}}

    with pytest.raises(InvalidChannelLayerError, match=f"'{theirs}' .* is that of Channels; here it is '{ours}'"):
        channel_layers["default"]
    assert channel_layers["ours"]


def test_what_is_no_layer_of_the_framework_is_refused(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "collections.OrderedDict"}}

    with pytest.raises(InvalidChannelLayerError, match=r"does not derive from gateway\.layers\.BaseChannelLayer"):
        channel_layers["default"]
