"""What a layer of any package inherits: gateway.layers.base."""

import asyncio
import re
from typing import Any

import pytest

from gateway.layers import BaseChannelLayer, InMemoryChannelLayer


class TestTheDocumentedNames:
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
