"""Messages to bytes and back: gateway.layers.serializers."""

from typing import Any

import pytest

from gateway.layers.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    registry,
)


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
