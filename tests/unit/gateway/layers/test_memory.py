"""The layer in memory as tests look into it: gateway.layers.memory."""

import asyncio

import pytest

from gateway.layers import InMemoryChannelLayer


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
