"""Every option of the layers over Redis: hosts, prefixes, formats, encryption."""

import asyncio
import json
import uuid
import zlib
from decimal import Decimal
from typing import Any

import pytest

from gateway.layers.group_log import START
from gateway.layers.manager import make_group_log, make_presence
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.layers.serializers import JSONSerializer, registry
from tests.support.redis import RedisServer
from tests.support.redis_layers import Layer, MakeLayer, Receiver
from tests.support.waiting import until


class TestEncryption:
    @pytest.mark.parametrize("redis_layer_class", [RedisPubSubChannelLayer])
    async def test_only_who_has_the_key_reads(self, redis_server: RedisServer, make_redis_layer: MakeLayer) -> None:
        old = make_redis_layer(redis_server, symmetric_encryption_keys=["old"])
        rotating = make_redis_layer(redis_server, symmetric_encryption_keys=["new", "old"])
        stranger = make_redis_layer(redis_server, symmetric_encryption_keys=["wrong"])
        reads_both, reads_wrong = await Receiver(rotating).join("group"), await Receiver(stranger).join("group")
        with redis_server.client() as client, client.pubsub() as spy:
            spy.subscribe(old.group_key("group"))
            spy.get_message(timeout=2)

            await old.group_send("group", {"type": "secret.word"})

            await until(lambda: reads_both.messages == [{"type": "secret.word"}])
            seen = spy.get_message(timeout=2)
            assert seen is not None
            assert b"secret" not in seen["data"]
        assert reads_wrong.messages == []

    def test_a_string_of_keys_is_refused(self, redis_layer_class: type[Layer]) -> None:
        with pytest.raises(ValueError, match="symmetric_encryption_keys must be a list of possible keys"):
            redis_layer_class(symmetric_encryption_keys="abc")


class Compressed(JSONSerializer):
    """A format of a project's own."""

    def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
        return zlib.compress(super().as_bytes(message))

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Any:
        return super().from_bytes(zlib.decompress(message))


registry.register_serializer("compressed", Compressed)


class TestOptions:
    @pytest.mark.parametrize(
        "options",
        [
            {"serializer_format": "json"},
            {"serializer_format": "compressed"},
            {"random_prefix_length": 12},
            {"symmetric_encryption_keys": ["key"], "serializer_format": "json", "random_prefix_length": 4},
            {"prefix": f"größe {{x}}* {uuid.uuid4().hex}"},
        ],
        ids=range(5),
    )
    async def test_messages_logs_and_members_pass_with(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer, options: dict[str, Any]
    ) -> None:
        here, elsewhere = make_redis_layer(redis_server, **options), make_redis_layer(redis_server, **options)
        member = await Receiver(here).join("group")
        messages = [{"type": "m", "n": n, "text": "größe", "nested": {"list": [1.5, None]}} for n in range(5)]

        await elsewhere.send(member.channel, messages[0])
        await until(lambda: len(member.messages) == 1)
        await elsewhere.group_send("group", messages[1])
        await until(lambda: len(member.messages) == 2)
        await asyncio.to_thread(elsewhere.sync.send, member.channel, messages[2])
        await until(lambda: len(member.messages) == 3)
        await asyncio.to_thread(elsewhere.sync.group_send, "group", messages[3])
        await until(lambda: len(member.messages) == 4)
        await here.group_send("group", messages[4])

        assert member.messages == messages
        log, presence = make_group_log(elsewhere), make_presence(elsewhere)
        group = f"logged {type(here).__name__}"
        await log.send(group, messages[0])
        [logged] = (await make_group_log(here).read(group, START)).messages
        assert {**logged, "log": None} == {**messages[0], "log": None}
        await presence.enter(group, {"name": "größe"})
        [present] = await make_presence(here).members(group)
        assert present.data == {"name": "größe"}
        await log.close()
        await presence.close()
        elsewhere.sync.close()

    @pytest.mark.parametrize("base", [RedisPubSubChannelLayer, RedisChannelLayer])
    async def test_a_layer_may_have_its_own_way_to_write_messages(self, redis_server: RedisServer, base: Any) -> None:
        class OfDecimals(base):  # type: ignore[misc]
            def serialize(self, message: Any) -> bytes:
                return json.dumps(message, default=lambda value: {"decimal": str(value)}).encode()

            def deserialize(self, message: bytes) -> Any:
                return json.loads(
                    message, object_hook=lambda found: Decimal(found["decimal"]) if "decimal" in found else found
                )

        prefix = f"test-{uuid.uuid4().hex}"
        here, elsewhere = (OfDecimals(hosts=[redis_server.url], prefix=prefix) for _ in range(2))
        member = await Receiver(here).join("group")
        message = {"type": "m", "price": Decimal("1.50")}

        await elsewhere.group_send("group", message)
        await until(lambda: member.messages == [message])

        log, presence = make_group_log(elsewhere), make_presence(elsewhere)
        await log.send("group", message)
        [logged] = (await log.read("group", START)).messages
        assert logged["price"] == Decimal("1.50")
        await presence.enter("group", {"price": Decimal("2")})
        assert [present.data for present in await presence.members("group")] == [{"price": Decimal(2)}]
        for used in (log, presence, here, elsewhere):
            await used.close()

    async def test_layers_with_different_prefixes_do_not_meet(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        one, other = (make_redis_layer(redis_server, prefix=f"test-{uuid.uuid4().hex}") for _ in range(2))
        theirs, ours = await Receiver(other).join("group"), await Receiver(one).join("group")

        await make_redis_layer(redis_server, prefix=one.prefix).group_send("group", {"type": "m"})

        await until(lambda: ours.messages == [{"type": "m"}])
        assert theirs.messages == []


class TestHosts:
    async def test_every_form_of_host_connects(self, redis_server: RedisServer, make_redis_layer: MakeLayer) -> None:
        port = redis_server.port
        forms: list[Any] = [
            f"redis://127.0.0.1:{port}",
            f"redis://127.0.0.1:{port}/0?health_check_interval=3",
            f"unix://{redis_server.unix_socket}",
            ("127.0.0.1", port),
            {"host": "127.0.0.1", "port": port},
            {"path": str(redis_server.unix_socket)},
            {"address": f"redis://127.0.0.1:{port}", "socket_timeout": 1, "decode_responses": True},
            {"host": "127.0.0.1", "port": port, "protocol": 3},
        ]
        layers = [make_redis_layer(None, hosts=[form]) for form in forms]
        members = [await Receiver(layer).join("group") for layer in layers]

        for number, layer in enumerate(layers):
            await layer.group_send("group", {"type": "n", "number": number})

        await until(lambda: all(len(member.messages) == len(forms) for member in members))

    async def test_names_are_spread_over_several_hosts(
        self, redis_server: RedisServer, own_redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        hosts = [redis_server.url, own_redis_server.url]
        here, elsewhere = make_redis_layer(None, hosts=hosts), make_redis_layer(None, hosts=hosts)
        groups = [f"group.{number}" for number in range(20)]
        member = await Receiver(here).join(*groups)

        for group in groups:
            await elsewhere.group_send(group, {"type": "m", "group": group})

        await until(lambda: len(member.messages) == 20)
        assert {here.shard(here.group_key(group)) for group in groups} == {0, 1}

    def test_a_string_of_hosts_is_refused(self, redis_layer_class: type[Layer]) -> None:
        with pytest.raises(ValueError, match="You must pass a list of Redis hosts"):
            redis_layer_class(hosts="redis://localhost")

    @pytest.mark.parametrize(
        "host", ["http://localhost", "redis://localhost?no_such_option=1", {"sentinels": [("a", 1)]}, {"hoost": "a"}]
    )
    def test_a_wrong_host_is_an_error_before_the_first_message(self, redis_layer_class: type[Layer], host: Any) -> None:
        with pytest.raises(ValueError, match=r"wrong Redis host|needs a master_name"):
            redis_layer_class(hosts=[host])

    @pytest.mark.parametrize("redis_layer_class", [RedisPubSubChannelLayer])
    async def test_group_add_takes_channels_of_this_process_only(
        self, redis_server: RedisServer, make_redis_layer: MakeLayer
    ) -> None:
        layer = make_redis_layer(redis_server)

        with pytest.raises(RuntimeError, match="channels that exist in-process"):
            await layer.group_add("group", "unknown")
