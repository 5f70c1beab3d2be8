"""What waits for a consumer that is busy is bounded, by the policy that its class names."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.generic.websocket import AsyncWebsocketConsumer
from gateway.layers import InMemoryChannelLayer
from gateway.testing import WebsocketCommunicator


class Busy(AsyncWebsocketConsumer):
    """Is in a handler until the test lets it go on."""

    groups = ["room"]

    def __init__(self, go_on: asyncio.Event) -> None:
        super().__init__()
        self.go_on = go_on

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data="busy")
        await self.go_on.wait()

    async def number(self, event: dict[str, Any]) -> None:
        await self.send(text_data=str(event["n"]))


def dropped(reason: str) -> float:
    return REGISTRY.get_sample_value("gateway_layer_dropped_total", {"reason": reason}) or 0


async def received_of(
    consumer: type[Busy], layer: InMemoryChannelLayer, served: Callable[[Any], Any], messages: list[dict[str, Any]]
) -> tuple[list[str], int]:
    """What the client sees of messages that come while the consumer is busy, and how many the layer saw dropped."""
    go_on = asyncio.Event()
    async with WebsocketCommunicator(served(consumer.as_asgi(go_on=go_on)), "/") as client:
        await client.connect()
        await client.send_to("x")
        assert await client.receive_from() == "busy"
        results = [await layer.group_send("room", message) for message in messages]
        go_on.set()
        seen = []
        while not await client.receive_nothing(timeout=0.25):
            event = await client.receive_output()
            seen.append(event["text"] if event["type"] == "websocket.send" else f"closed {event['code']}")
    return seen, sum(result.dropped for result in results)


NUMBERS = [{"type": "number", "n": n} for n in range(8)]


async def test_by_default_a_mailbox_holds_the_capacity_of_the_layer_and_refuses_more(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    before = dropped("full")

    assert await received_of(Busy, layer, served, NUMBERS) == (["0", "1", "2", "3", "4"], 3)
    assert dropped("full") == before + 3


async def test_a_mailbox_holds_the_capacity_that_the_class_names(served: Any, layer: InMemoryChannelLayer) -> None:
    class Small(Busy):
        mailbox_capacity = 2

    assert await received_of(Small, layer, served, NUMBERS) == (["0", "1"], 6)


async def test_drop_oldest_keeps_the_newest(
    served: Any, layer: InMemoryChannelLayer, caplog: pytest.LogCaptureFixture
) -> None:
    class Newest(Busy):
        mailbox_capacity = 3
        mailbox_policy = "drop_oldest"

    before = dropped("oldest")

    assert await received_of(Newest, layer, served, NUMBERS) == (["5", "6", "7"], 0)
    assert dropped("oldest") == before + 5
    assert caplog.text.count("messages dropped") <= 1


async def test_close_drops_all_and_closes_with_try_again_later(served: Any, layer: InMemoryChannelLayer) -> None:
    class Closing(Busy):
        mailbox_capacity = 3
        mailbox_policy = "close"

    before = dropped("closed")

    assert await received_of(Closing, layer, served, NUMBERS) == (["closed 1013"], 5)
    assert dropped("closed") == before + 3


class Afresh(Busy):
    """Starts afresh when it has fallen behind."""

    mailbox_capacity = 3
    mailbox_policy = "drop_oldest"

    async def number(self, event: dict[str, Any]) -> None:
        overflowed = self.mailbox_overflowed
        dropped = self.drop_waiting() if overflowed else 0
        await self.send(text_data=f"{event['n']} {overflowed} {dropped}")


async def test_a_consumer_that_fell_behind_sees_it_and_may_drop_what_waits(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    assert await received_of(Afresh, layer, served, NUMBERS) == (["5 True 2"], 0)


async def test_a_consumer_whose_mailbox_was_just_full_has_missed_nothing(
    served: Any, layer: InMemoryChannelLayer
) -> None:
    assert await received_of(Afresh, layer, served, NUMBERS[:3]) == (["0 False 0", "1 False 0", "2 False 0"], 0)


@pytest.mark.parametrize("policy", ["drop_newest", "keep_latest"])
async def test_an_overflow_is_seen_under_every_policy_that_drops_some(
    served: Any, layer: InMemoryChannelLayer, policy: str
) -> None:
    class Other(Afresh):
        mailbox_policy = policy  # type: ignore[assignment]

        def mailbox_key(self, message: dict[str, Any]) -> Hashable:
            return message["n"]

    seen, _ = await received_of(Other, layer, served, NUMBERS)
    assert len(seen) == 1
    assert seen[0].endswith(" True 2")


async def test_a_consumer_without_a_layer_has_no_mailbox_to_overflow() -> None:
    class Alone(Afresh):
        channel_layer_alias = ""
        groups = None

    async with WebsocketCommunicator(Alone.as_asgi(go_on=asyncio.Event()), "/") as client:
        await client.connect()
        client.inbox.post({"type": "number", "n": 1})

        assert await client.receive_from() == "1 False 0"


class TestKeepLatest:
    async def test_keep_latest_holds_one_message_per_key_in_the_order_in_which_the_keys_came(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Latest(Busy):
            mailbox_policy = "keep_latest"

            def mailbox_key(self, message: dict[str, Any]) -> Hashable:
                return message["n"] % 3

        before = dropped("replaced")

        assert await received_of(Latest, layer, served, NUMBERS) == (["6", "7", "5"], 0)
        assert dropped("replaced") == before + 5

    async def test_keep_latest_takes_the_type_for_the_key_unless_told_otherwise(
        self, served: Any, layer: InMemoryChannelLayer
    ) -> None:
        class Latest(Busy):
            mailbox_policy = "keep_latest"

        assert await received_of(Latest, layer, served, NUMBERS) == (["7"], 0)

    async def test_drops_the_oldest_of_more_keys_than_it_holds(self, served: Any, layer: InMemoryChannelLayer) -> None:
        class Latest(Busy):
            mailbox_capacity = 2
            mailbox_policy = "keep_latest"

            def mailbox_key(self, message: dict[str, Any]) -> Hashable:
                return message["n"]

        assert await received_of(Latest, layer, served, NUMBERS) == (["6", "7"], 0)


def test_an_unknown_policy_is_an_error_when_the_class_is_made() -> None:
    with pytest.raises(
        TypeError, match="Wrong is one of close, drop_newest, drop_oldest, keep_latest: 'drop_randomly'"
    ):

        class Wrong(Busy):
            mailbox_policy = "drop_randomly"  # type: ignore[assignment]
