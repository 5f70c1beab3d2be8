"""Logs of groups, and consumers that resume from them, over every layer; Redis ones on a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from gateway.exceptions import InvalidChannelLayerError
from gateway.generic.resume import ResumableGroups, parse_cursor
from gateway.generic.sse import AsyncResumableSseConsumer
from gateway.generic.websocket import AsyncJsonWebsocketConsumer
from gateway.layers import BaseChannelLayer, LayerEvent, channel_layers
from gateway.layers.group_log import START, GroupLog, Position
from gateway.layers.manager import group_log, make_group_log
from gateway.layers.pubsub import RedisPubSubChannelLayer
from tests.support.communicators import PatientHttp, PatientWebsocket
from tests.support.layers import MakeLayer
from tests.support.redis import RedisServer


class Logs:
    """Makes logs, each with a layer of its own, as if in a process of its own."""

    def __init__(self, make_layer: MakeLayer) -> None:
        self._make_layer = make_layer
        self._made: list[GroupLog] = []

    def __call__(self, **options: Any) -> GroupLog:
        layer = self._make_layer()
        known = [log for log in self._made if log.layer is layer]  # in memory, there is one process
        self._made.append(known[0] if known else make_group_log(layer, **options))
        return self._made[-1]

    async def close(self) -> None:
        for log in self._made:
            await log.close()


@pytest.fixture
async def logs(make_layer: MakeLayer) -> AsyncIterator[Logs]:
    logs = Logs(make_layer)
    yield logs
    await logs.close()


@pytest.fixture
async def layer(make_layer: MakeLayer) -> AsyncIterator[BaseChannelLayer]:
    """The layer "default", with logs of five messages."""
    layer = make_layer()
    old = channel_layers.set("default", layer)
    yield layer
    await group_log().close()
    channel_layers.backends.pop("default")
    if old is not None:
        channel_layers.set("default", old)


@pytest.fixture(autouse=True)
def log_options(settings: Any) -> Iterator[None]:
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "gateway.layers.InMemoryChannelLayer", "LOG": {"length": 5}}}
    yield
    channel_layers.backends.clear()


def numbers(messages: list[dict[str, Any]]) -> list[int]:
    return [message["n"] for message in messages]


class TestTheLog:
    async def test_what_is_sent_can_be_read_after_any_position(self, logs: Logs) -> None:
        writer, reader = logs(), logs()
        sent = [await writer.send("g", {"type": "m", "n": n}) for n in range(4)]

        assert numbers((await reader.read("g", sent[1].position)).messages) == [2, 3]
        assert (await reader.read("g", sent[3].position)) == ([], False, sent[3].position)
        assert await reader.end("g") == sent[3].position

    async def test_positions_have_no_holes_and_messages_carry_them(self, logs: Logs) -> None:
        log = logs()
        sent = [await log.send("g", {"type": "m", "n": n}) for n in range(3)]

        assert [entry.position.number for entry in sent] == [1, 2, 3]
        replay = await log.read("g", START)
        assert [message["log"] for message in replay.messages] == [
            {"group": "g", "position": str(entry.position)} for entry in sent
        ]

    async def test_members_get_the_message_with_its_position(self, logs: Logs) -> None:
        log = logs()
        layer = log.layer
        channel = await layer.new_channel()
        await layer.group_add("g", channel)

        sent = await log.send("g", {"type": "m", "n": 0})

        assert (sent.delivered, sent.dropped) == (1, 0)
        message = await asyncio.wait_for(layer.receive(channel), 60)
        assert message == {"type": "m", "n": 0, "log": {"group": "g", "position": str(sent.position)}}

    async def test_an_empty_log_has_no_gap_at_its_start(self, logs: Logs) -> None:
        log = logs()

        assert await log.read("g", START) == ([], False, START)
        await log.send("g", {"type": "m", "n": 0})
        assert not (await log.read("g", START)).gap

    async def test_the_length_is_bounded_and_what_is_gone_is_a_gap(self, logs: Logs) -> None:
        log = logs(length=3)
        sent = [await log.send("g", {"type": "m", "n": n}) for n in range(6)]

        replay = await log.read("g", sent[1].position)
        assert (numbers(replay.messages), replay.gap) == ([3, 4, 5], True)
        assert not (await log.read("g", sent[2].position)).gap

    async def test_a_log_that_nothing_is_sent_to_is_forgotten_and_begins_anew(self, logs: Logs) -> None:
        log = logs(expiry_s=0.05)
        old = await log.send("g", {"type": "m", "n": 0})
        await asyncio.sleep(0.2)

        assert await log.read("g", old.position) == ([], True, START)
        log.expiry_s = 60
        new = await log.send("g", {"type": "m", "n": 1})
        assert new.position.epoch > old.position.epoch
        replay = await log.read("g", old.position)
        assert (numbers(replay.messages), replay.gap) == ([1], True)

    async def test_a_position_that_the_log_never_had_is_a_gap(self, logs: Logs) -> None:
        log = logs()
        sent = await log.send("g", {"type": "m", "n": 0})

        beyond = Position(sent.position.epoch, 1000)
        assert await log.read("g", beyond) == ([], True, sent.position)

    async def test_groups_have_logs_of_their_own_and_any_name(self, logs: Logs) -> None:
        log = logs()
        await log.send("one@example.org", {"type": "m", "n": 1})
        await log.send("two/#", {"type": "m", "n": 2})

        assert numbers((await log.read("one@example.org", START)).messages) == [1]

    async def test_senders_side_by_side_get_one_order(self, logs: Logs) -> None:
        one, two = logs(), logs()
        await asyncio.gather(
            *(log.send("g", {"type": "m", "n": n}) for n in range(20) for log in (one, two)),
        )

        assert await one.read("g", START) == await two.read("g", START)
        assert len((await one.read("g", START)).messages) == 40

    async def test_options_that_make_no_sense_are_refused(self, logs: Logs) -> None:
        with pytest.raises(InvalidChannelLayerError, match="more than 0"):
            logs(length=0)


class Room(ResumableGroups, AsyncJsonWebsocketConsumer):
    """Follows one group, and tells its client everything."""

    async def connect(self) -> None:
        await self.accept()
        cursor = self.scope["query_string"].decode() or None
        await self.resume(["room"], cursor)
        await self.send_json("joined")

    async def m(self, event: Any) -> None:
        await self.send_json({"n": event["n"], "cursor": self.cursor})

    async def group_gap(self, event: Any) -> None:
        await self.send_json("gap")


async def join(client: PatientWebsocket) -> list[Any]:
    """Connects; what came before it had joined."""
    await client.connect()
    before = []
    while (frame := await client.receive_json_from()) != "joined":
        before.append(frame)
    return before


class TestAConsumer:
    async def test_a_consumer_gets_what_is_sent_while_it_is_there(self, layer: BaseChannelLayer) -> None:
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            assert await join(client) == []
            for n in range(3):
                await group_log().send("room", {"type": "m", "n": n})

            assert [(await client.receive_json_from())["n"] for _ in range(3)] == [0, 1, 2]
            assert await client.receive_nothing(0.02)

    async def test_a_consumer_gets_what_was_sent_while_it_was_away(self, layer: BaseChannelLayer) -> None:
        log = group_log()
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            await join(client)
            await log.send("room", {"type": "m", "n": 0})
            cursor = (await client.receive_json_from())["cursor"]
        for n in range(1, 4):
            await log.send("room", {"type": "m", "n": n})

        async with PatientWebsocket(Room.as_asgi(), f"/?{cursor}") as client:
            assert numbers(await join(client)) == [1, 2, 3]
            await log.send("room", {"type": "m", "n": 4})
            assert (await client.receive_json_from())["n"] == 4

    async def test_a_consumer_is_told_of_a_gap_then_gets_what_is_left(self, layer: BaseChannelLayer) -> None:
        log = group_log()
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            await join(client)
            await log.send("room", {"type": "m", "n": 0})
            cursor = (await client.receive_json_from())["cursor"]
        for n in range(1, 9):
            await log.send("room", {"type": "m", "n": n})

        async with PatientWebsocket(Room.as_asgi(), f"/?{cursor}") as client:
            gap, *rest = await join(client)
            assert (gap, numbers(rest)) == ("gap", [4, 5, 6, 7, 8])

    @pytest.mark.parametrize("cursor", ["room=1-2-3", "nonsense", "room=", "room=" + "9" * 9000])
    async def test_a_consumer_is_told_of_a_gap_when_the_cursor_is_none(
        self, layer: BaseChannelLayer, cursor: str
    ) -> None:
        async with PatientWebsocket(Room.as_asgi(), f"/?{cursor}") as client:
            assert await join(client) == ["gap"]

    async def test_a_consumer_gets_a_message_that_did_not_reach_it_before_the_next_one(
        self, layer: BaseChannelLayer
    ) -> None:
        log = group_log()
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            await join(client)
            await log.send("room", {"type": "m", "n": 0})
            await log._append("room", {"type": "m", "n": 1})  # as when the layer lost it
            await log.send("room", {"type": "m", "n": 2})

            assert [(await client.receive_json_from())["n"] for _ in range(3)] == [0, 1, 2]
            assert await client.receive_nothing(0.02)

    async def test_a_consumer_gets_what_it_missed_when_the_layer_is_back(
        self, layer: Any, make_layer: MakeLayer
    ) -> None:
        class Telling(Room):
            async def connect(self) -> None:
                await super().connect()
                await self.send_json(self.channel_name)

        log = group_log()
        async with PatientWebsocket(Telling.as_asgi(), "/") as client:
            await join(client)
            channel = await client.receive_json_from()
            await log._append("room", {"type": "m", "n": 0})
            local = layer.local if hasattr(layer, "local") else layer._loops.here.local
            local.announce([channel], LayerEvent(type="layer.reconnected", generation=1))

            assert (await client.receive_json_from())["n"] == 0

    async def test_a_consumer_gets_each_message_once_however_it_races_with_the_replay(
        self, layer: BaseChannelLayer, settings: Any
    ) -> None:
        settings.CHANNEL_LAYERS["default"]["LOG"]["length"] = 100
        log = group_log()

        async def send_all() -> None:
            for n in range(60):
                await log.send("room", {"type": "m", "n": n})
                await asyncio.sleep(0.001)

        sending = asyncio.create_task(send_all())
        seen: list[int] = []
        cursor = f"room={START}"
        while len(seen) < 60:
            client = PatientWebsocket(Room.as_asgi(), f"/?{cursor}")
            async with client:
                frames = await join(client)
                assert "gap" not in frames
                frames += [await client.receive_json_from() for _ in range(3) if len(seen) + len(frames) < 58]
                seen += numbers(frames)
                cursor = frames[-1]["cursor"] if frames else cursor
        await sending

        assert seen == list(range(60))


class Feed(AsyncResumableSseConsumer):
    groups = ["room"]

    async def m(self, event: Any) -> None:
        await self.send_event(json.dumps(event["n"]))


async def read_events(client: PatientHttp, count: int) -> list[dict[str, str]]:
    """The next events that have data."""
    events: list[dict[str, str]] = []
    while len(events) < count:
        text = (await client.receive_body())[0].decode()
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        if "data" in fields:
            events.append(fields)
    return events


async def open_feed(last_event_id: str | None = None) -> PatientHttp:
    headers = [(b"last-event-id", last_event_id.encode())] if last_event_id else []
    client = PatientHttp(Feed.as_asgi(), "GET", "/", headers=headers)
    await client.send_request()
    assert (await client.receive_output())["status"] == 200
    return client


class TestAnEventStream:
    async def test_resumes_after_the_last_event_id(self, layer: BaseChannelLayer) -> None:
        log = group_log()
        client = await open_feed()
        assert (await client.receive_body())[0] == b":\n\n"
        assert (await client.receive_body())[0] == f"id: room={START}\n\n".encode()
        await log.send("room", {"type": "m", "n": 0})
        (event,) = await read_events(client, 1)
        await client.disconnect()
        for n in range(1, 4):
            await log.send("room", {"type": "m", "n": n})

        client = await open_feed(event["id"])
        assert [event["data"] for event in await read_events(client, 3)] == ["1", "2", "3"]
        await client.disconnect()

    async def test_begins_with_an_id_so_that_the_first_event_cannot_be_missed(self, layer: BaseChannelLayer) -> None:
        log = group_log()
        await log.send("room", {"type": "m", "n": 0})
        client = await open_feed()
        await client.receive_body()
        first_id = (await client.receive_body())[0].decode().removeprefix("id: ").strip()
        await client.disconnect()
        await log.send("room", {"type": "m", "n": 1})

        client = await open_feed(first_id)
        assert [event["data"] for event in await read_events(client, 1)] == ["1"]
        await client.disconnect()

    async def test_an_event_stream_tells_of_a_gap(self, layer: BaseChannelLayer) -> None:
        client = await open_feed("room=1-1")

        (event,) = await read_events(client, 1)
        assert (event["event"], event["data"]) == ("gap", '{"group": "room"}')
        await client.disconnect()


def test_a_cursor_names_any_group() -> None:
    assert parse_cursor("a%26b%3D1=5-6&x=1-2") == {"a&b=1": Position(5, 6), "x": Position(1, 2)}


class TestWhenRedisGoesAway:
    @pytest.fixture
    async def layer(self, own_redis_server: RedisServer) -> AsyncIterator[BaseChannelLayer]:
        layer = RedisPubSubChannelLayer(hosts=[own_redis_server.url])
        old = channel_layers.set("default", layer)
        yield layer
        await group_log().close()
        await layer.close()
        channel_layers.backends.pop("default")
        if old is not None:
            channel_layers.set("default", old)

    async def test_what_was_sent_while_a_connection_was_lost_is_read_when_it_is_back(
        self, layer: BaseChannelLayer, own_redis_server: RedisServer
    ) -> None:
        elsewhere = RedisPubSubChannelLayer(hosts=[own_redis_server.url])
        log = make_group_log(elsewhere)
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            await join(client)
            with own_redis_server.client() as redis:
                redis.client_kill_filter(_type="pubsub")
            for n in range(3):
                await log.send("room", {"type": "m", "n": n})

            assert [(await client.receive_json_from())["n"] for _ in range(3)] == [0, 1, 2]
        await log.close()
        await elsewhere.close()

    async def test_a_server_that_comes_back_without_its_logs_is_a_gap(
        self, layer: BaseChannelLayer, own_redis_server: RedisServer
    ) -> None:
        async with PatientWebsocket(Room.as_asgi(), "/") as client:
            await join(client)
            await group_log().send("room", {"type": "m", "n": 0})
            await client.receive_json_from()
            own_redis_server.stop()
            own_redis_server.start()

            assert await client.receive_json_from() == "gap"
