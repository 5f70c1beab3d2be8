"""The helpers that layers share: gateway.layers.base, .validation, .dropped, .manager, .serializers."""

import asyncio
import logging
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import BaseChannelLayer, InMemoryChannelLayer, channel_layers, get_channel_layer
from gateway.layers.dropped import DropLog
from gateway.layers.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    registry,
)
from gateway.layers.validation import escape_name

MEMORY = "gateway.layers.InMemoryChannelLayer"


class TestNames:
    @pytest.mark.parametrize("name", ["a", "valid-name_1.x", "specific.!abc", "a" * 99])
    def test_documented_names_are_used_as_they_are(self, name: str) -> None:
        assert escape_name(name) == name

    @given(st.text(min_size=1), st.text(min_size=1))
    def test_different_names_stay_different(self, one: str, two: str) -> None:
        assert (escape_name(one) == escape_name(two)) is (one == two)
        assert re.fullmatch(r"[\w.!%~-]{1,200}", escape_name(one), re.ASCII)

    @pytest.mark.parametrize("name", ["a" * 100, "é" * 100, "a~b", "%41"])
    def test_long_and_awkward_names_are_bounded(self, name: str) -> None:
        assert escape_name(name) != name
        assert len(escape_name(name)) <= 200

    @pytest.mark.parametrize("name", ["¯\\_(ツ)_/¯", "chat", "a" * 100, "", None, 1])
    def test_the_documented_checks_are_those_of_channels(self, name: Any) -> None:
        layer = BaseChannelLayer()
        if name == "chat":
            assert layer.require_valid_channel_name(name)
            assert layer.require_valid_group_name(name)
            return
        message = "must be a valid unicode string with length < 100 containing only ASCII alphanumerics"
        with pytest.raises(TypeError, match=f"Channel name {message}"):
            layer.require_valid_channel_name(name)
        with pytest.raises(TypeError, match=f"Group name {message}"):
            layer.require_valid_group_name(name)

    def test_a_receiver_of_process_channels_names_the_process(self) -> None:
        layer = BaseChannelLayer()

        assert layer.require_valid_channel_name("process!", receive=True)
        with pytest.raises(TypeError, match="must end at the !"):
            layer.require_valid_channel_name("process!x", receive=True)
        assert layer.valid_channel_names(["a", "b!c"])
        assert layer.non_local_name("a!b") == "a!"
        assert layer.non_local_name("ab") == "ab"

    def test_the_old_checks_warn(self) -> None:
        with pytest.deprecated_call():
            assert BaseChannelLayer().valid_channel_name("a")
        with pytest.deprecated_call():
            assert BaseChannelLayer().valid_group_name("a")


class TestCapacities:
    def test_the_first_matching_pattern_counts(self) -> None:
        layer = InMemoryChannelLayer(capacity=5, channel_capacity={"http.request": 1, "http.*": 2, re.compile("^w"): 3})

        names = ["http.request", "http.other", "websocket!x", "else"]

        assert [layer.get_capacity(name) for name in names] == [1, 2, 3, 5]


class TestLayersOfOtherPackages:
    async def test_attach_reads_them_with_receive(self) -> None:
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

        class Theirs(BaseChannelLayer):
            def __init__(self) -> None:  # as many do, without calling ours
                pass

            async def receive(self, channel: str) -> dict[str, Any]:
                return await queue.get()

        layer = Theirs()
        got: asyncio.Queue[Any] = asyncio.Queue()
        layer.attach("a", got.put_nowait)
        layer.attach("b", got.put_nowait)
        layer.detach("b")
        queue.put_nowait({"type": "m"})

        assert await asyncio.wait_for(got.get(), 1) == {"type": "m"}
        layer.detach("a")
        layer.detach("a")

    async def test_what_is_not_implemented_says_so(self) -> None:
        layer = BaseChannelLayer()
        for call in (layer.flush(), layer.group_add("g", "c"), layer.group_send("g", {}), layer.receive("c")):
            with pytest.raises(NotImplementedError):
                await call


class TestLookingIntoALayerInMemory:
    """What tests written for Channels do with `channels` and `groups`."""

    async def test_channels_have_queues_of_messages_with_their_deadlines(self) -> None:
        layer = InMemoryChannelLayer()
        assert layer.channels == {}
        await layer.send("a", {"type": "one"})
        await layer.send("a", {"type": "two"})

        queue = layer.channels["a"]

        assert (queue.qsize(), len(queue), queue.empty()) == (2, 2, False)
        assert [message["type"] for _, message in queue] == ["one", "two"]
        assert queue.get_nowait()[1] == {"type": "one"}
        assert await layer.receive("a") == {"type": "two"}
        assert "a" not in layer.channels
        assert queue.empty()
        with pytest.raises(asyncio.QueueEmpty):
            queue.get_nowait()
        with pytest.raises(KeyError):
            layer.channels["a"]

    async def test_messages_can_be_dropped_by_channel_and_all_at_once(self) -> None:
        layer = InMemoryChannelLayer()
        layer.attach("attached", print)
        for channel in "abc":
            await layer.send(channel, {"type": "m"})

        del layer.channels["a"]
        assert set(layer.channels) == {"attached", "b", "c"}
        layer.channels.clear()

        assert list(layer.channels) == ["attached"]
        layer.detach("attached")
        assert layer.channels == {}
        with pytest.raises(KeyError):
            del layer.channels["a"]

    async def test_groups_are_dicts_of_channels_and_none_is_empty(self) -> None:
        layer = InMemoryChannelLayer()
        await layer.group_add("group", "a")
        await layer.group_add("group", "b")
        assert list(layer.groups["group"]) == ["a", "b"]

        await layer.group_discard("group", "a")
        await layer.group_discard("group", "b")
        assert layer.groups == {}

    async def test_flush_leaves_nothing(self) -> None:
        layer = InMemoryChannelLayer()
        await layer.send("a", {"type": "m"})
        await layer.group_add("group", "a")

        await layer.flush()
        await layer.close()

        assert (layer.channels, layer.groups) == ({}, {})

    async def test_a_group_that_was_cleared_can_be_joined_again(self) -> None:
        layer = InMemoryChannelLayer()
        await layer.group_add("group", "a")
        layer.groups.clear()
        await layer.group_add("group", "a")

        assert await layer.group_send("group", {"type": "m"}) == (1, 0)


class TestSettings:
    def test_layers_are_made_when_first_asked_for(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 7}}}

        layer = get_channel_layer()

        assert isinstance(layer, InMemoryChannelLayer)
        assert layer.capacity == 7
        assert get_channel_layer() is layer
        assert get_channel_layer("other") is None
        assert "default" in channel_layers
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY}}
        assert get_channel_layer() is not layer

    def test_a_test_may_put_another_layer_there(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {}
        mine = InMemoryChannelLayer()

        assert channel_layers.set("mine", mine) is None
        assert get_channel_layer("mine") is mine
        assert channel_layers.set("mine", InMemoryChannelLayer()) is mine

    def test_a_test_backend_comes_from_its_own_config(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "TEST_CONFIG": {"expiry": 5}}, "bare": {}}

        assert channel_layers.make_test_backend("default").expiry == 5
        with pytest.raises(InvalidChannelLayerError, match="No TEST_CONFIG specified for bare"):
            channel_layers.make_test_backend("bare")

    @pytest.mark.parametrize(
        ("config", "error"),
        [
            ({}, "No BACKEND specified for default"),
            ({"BACKEND": "no.such.Layer"}, "Cannot import BACKEND 'no.such.Layer' specified for default"),
            ({"BACKEND": MEMORY, "ROUTING": "x"}, "ROUTING key found for default"),
        ],
    )
    def test_a_wrong_setting_is_named(self, settings: Any, config: dict[str, Any], error: str) -> None:
        settings.CHANNEL_LAYERS = {"default": config}

        with pytest.raises(InvalidChannelLayerError, match=re.escape(error)):
            get_channel_layer()

    def test_an_error_of_the_layer_itself_comes_through(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "CONFIG": {"no_such_option": 1}}}

        with pytest.raises(TypeError, match="no_such_option"):
            get_channel_layer()


class TestDropLog:
    def test_drops_are_logged_once_per_interval_with_their_numbers(self, caplog: pytest.LogCaptureFixture) -> None:
        now = 0.0
        drops = DropLog(interval_s=10, clock=lambda: now)
        for _ in range(100):
            drops.add("full", "chat")
        now = 10.0
        with caplog.at_level(logging.WARNING):
            drops.add("expired", "other", 2)
            drops.add("gone", "not logged")

        assert [record.getMessage() for record in caplog.records] == [
            "messages dropped: 1 full; the last for chat",
            "messages dropped: 99 full, 2 expired; the last for other",
        ]


class TestSerializers:
    MESSAGE = {"type": "m", "text": "é", "numbers": [1, 2.5, None, True], "nested": {"a": {}}}

    @pytest.mark.parametrize("name", ["json", "msgpack"])
    @pytest.mark.parametrize("keys", [None, ["key"], ["new", b"old"]])
    @pytest.mark.parametrize("prefix", [0, 12])
    def test_a_message_comes_back_as_it_was(self, name: str, keys: Any, prefix: int) -> None:
        serializer = registry.get_serializer(
            name, symmetric_encryption_keys=keys, random_prefix_length=prefix, expiry=60
        )

        data = serializer.serialize(self.MESSAGE)

        assert serializer.deserialize(data) == self.MESSAGE
        assert (serializer.serialize(self.MESSAGE) == data) is (keys is None and prefix == 0)

    def test_maps_may_have_keys_that_are_no_strings(self) -> None:
        serializer = MsgPackSerializer()

        assert serializer.deserialize(serializer.serialize({"type": "m", "by_id": {7: "x"}})) == {
            "type": "m",
            "by_id": {7: "x"},
        }

    def test_a_format_of_ones_own_can_be_registered(self) -> None:
        class Shouting(JSONSerializer):
            def as_bytes(self, message: Any, *args: Any, **kwargs: Any) -> bytes:
                return super().as_bytes(message).upper()

        registry.register_serializer("shouting", Shouting)

        assert registry.get_serializer("shouting").serialize({"a": "b"}) == b'{"A": "B"}'
        assert issubclass(Shouting, BaseMessageSerializer)

    def test_what_is_no_serializer_is_refused(self) -> None:
        with pytest.raises(AssertionError, match="should be a class which implements"):
            registry.register_serializer("wrong", object)  # type: ignore[arg-type]
        with pytest.raises(SerializerDoesNotExist):
            registry.get_serializer("no such format")
