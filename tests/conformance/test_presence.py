"""Presence over every layer: who is in a group, told and correct, whatever happens to the processes."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from gateway.exceptions import InvalidChannelLayerError
from gateway.generic.presence import Member, Presence, PresentConsumer, RedisPresence, make_presence, presence
from gateway.generic.websocket import AsyncJsonWebsocketConsumer
from gateway.layers import BaseChannelLayer, channel_layers
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from tests.support.communicators import PatientWebsocket
from tests.support.layers import MakeLayer
from tests.support.redis import RedisServer

LEASE_S = 2.0
"""Of processes whose end is waited for. Whoever is slower than this is taken for dead."""

MakePresence = Callable[..., Presence]


@pytest.fixture
async def processes(make_layer: MakeLayer) -> AsyncIterator[MakePresence]:
    """Makes presences, each as if in a process of its own. In memory there is one process: it is always the same."""
    made: dict[BaseChannelLayer, Presence] = {}

    def make(lease_s: float = 60) -> Presence:
        layer = make_layer()
        return made.setdefault(layer, make_presence(layer, lease_s=lease_s))

    yield make
    for process in made.values():
        await process.close()


async def watcher(process: Presence, group: str) -> tuple[list[Member], Callable[[], Any]]:
    """Who is there, and a function for the next event."""
    layer = process.layer
    channel = await layer.new_channel()
    members = await process.watch(group, channel)

    async def next_event() -> tuple[str, str, Any]:
        event = await asyncio.wait_for(layer.receive(channel), 60)
        assert event["group"] == group
        return event["type"], event["member"]["id"], event["member"]["data"]

    return members, next_event


async def members_are(process: Presence, expected: Callable[[], list[Member]]) -> None:
    """Returns when the members of "g" are as expected."""
    async with asyncio.timeout(60):
        while await process.members("g") != expected():
            await asyncio.sleep(0.05)


class TestMembers:
    async def test_who_entered_is_a_member_for_every_process_with_its_data(self, processes: MakePresence) -> None:
        one, two = processes(), processes()
        ann = await one.enter("g", {"user": "ann", "nested": [1, None]})
        bob = await two.enter("g", {"user": "bob"})

        for process in (one, two):
            assert await process.members("g") == sorted([ann.member, bob.member])
        assert ann.member.data == {"user": "ann", "nested": [1, None]}

    async def test_who_left_is_none(self, processes: MakePresence) -> None:
        one, two = processes(), processes()
        ann = await one.enter("g")
        bob = await two.enter("g")

        await one.leave(ann)
        await one.leave(ann)

        assert await two.members("g") == [bob.member]

    async def test_one_may_enter_twice_and_groups_are_apart(self, processes: MakePresence) -> None:
        process = processes()
        await process.enter("user@example.org", {"user": "ann"})
        second = await process.enter("user@example.org", {"user": "ann"})
        await process.enter("other", {"user": "ann"})

        await process.leave(second)
        assert len(await process.members("user@example.org")) == 1

    async def test_a_group_that_was_left_may_be_entered_again(self, processes: MakePresence) -> None:
        process = processes()
        for _ in range(3):
            entry = await process.enter("g")
            assert len(await process.members("g")) == 1
            await process.leave(entry)
        assert await process.members("g") == []

    async def test_members_stay_for_longer_than_a_lease(self, processes: MakePresence) -> None:
        one, two = processes(lease_s=1), processes(lease_s=1)
        ann = await one.enter("g")
        await asyncio.sleep(1.5)

        await members_are(two, lambda: [ann.member])


class TestWatching:
    async def test_who_watches_is_told_who_is_there_then_who_comes_and_goes(self, processes: MakePresence) -> None:
        one, two = processes(), processes()
        ann = await one.enter("g", {"user": "ann"})
        members, next_event = await watcher(two, "g")
        assert members == [ann.member]

        bob = await one.enter("g", {"user": "bob"})
        await one.leave(ann)

        assert await next_event() == ("presence.joined", bob.id, {"user": "bob"})
        assert await next_event() == ("presence.left", ann.id, {"user": "ann"})


@pytest.fixture(params=[RedisPubSubChannelLayer, RedisChannelLayer], ids=["pubsub", "redis"])
async def redis_process(
    request: pytest.FixtureRequest, own_redis_server: RedisServer
) -> AsyncIterator[Callable[[], RedisPresence]]:
    """Makes presences over a Redis that the test may treat as it likes."""
    made: list[RedisPresence] = []

    def make() -> RedisPresence:
        made.append(RedisPresence(request.param(hosts=[own_redis_server.url]), lease_s=LEASE_S))
        return made[-1]

    make.layer_class = request.param  # type: ignore[attr-defined]
    yield make
    for process in made:
        await process.close()
        await process.layer.close()


MEMBERS_ELSEWHERE = """
import asyncio, sys
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.generic.presence import make_presence

async def main(layer_class, url, lease_s):
    presence = make_presence(globals()[layer_class](hosts=[url]), lease_s=float(lease_s))
    for number in range(3):
        await presence.enter("g", {"number": number})
    print("entered", flush=True)
    await asyncio.sleep(60)

asyncio.run(main(*sys.argv[1:]))
"""


class TestAProcessThatIsKilled:
    async def test_a_killed_process_leaves_no_member_behind_and_each_is_told_once(
        self, redis_process: Any, own_redis_server: RedisServer
    ) -> None:
        watching, other = redis_process(), redis_process()
        ann = await other.enter("g", {"user": "ann"})
        arguments = [redis_process.layer_class.__name__, own_redis_server.url, str(LEASE_S)]
        victim = subprocess.Popen([sys.executable, "-c", MEMBERS_ELSEWHERE, *arguments], stdout=subprocess.PIPE)
        try:
            assert victim.stdout is not None
            assert await asyncio.to_thread(victim.stdout.readline) == b"entered\n"
            members, next_event = await watcher(watching, "g")
            assert len(members) == 4
        finally:
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            victim.stdout.close()  # type: ignore[union-attr]

        events = [await next_event() for _ in range(3)]
        assert {kind for kind, _, _ in events} == {"presence.left"}
        assert sorted(id_ for _, id_, _ in events) == sorted(member.id for member in members if member != ann.member)
        await members_are(watching, lambda: [ann.member])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(next_event(), LEASE_S / 2)

        with own_redis_server.client() as redis:  # nothing of it is left
            async with asyncio.timeout(60):
                while len([key for key in redis.scan_iter("asgi:presence:*") if b":process:" in key]) != 1:
                    await asyncio.sleep(0.05)
            assert redis.hlen("asgi:presence:group:g") == 1

    async def test_a_killed_process_does_not_count_from_the_end_of_its_lease_even_when_nobody_has_removed_it(
        self, redis_process: Any
    ) -> None:
        dead, reader = redis_process(), redis_process()
        await dead.enter("g")
        await dead.close()
        assert len(await reader.members("g")) == 1
        await asyncio.sleep(LEASE_S * 1.2)

        assert await reader.members("g") == []


async def test_a_process_that_was_taken_for_dead_enters_its_members_anew(redis_process: Any) -> None:
    slow, other = redis_process(), redis_process()
    entry = await slow.enter("g", {"user": "ann"})
    first = entry.member
    _, next_event = await watcher(other, "g")

    slow._loops.here._renewing.cancel()  # as when its loop was blocked
    assert await next_event() == ("presence.left", first.id, {"user": "ann"})
    assert await other.members("g") == []
    slow._loops.here._renewing = None
    slow._loops.here.start()

    joined = await next_event()
    assert (joined[0], joined[2]) == ("presence.joined", {"user": "ann"})
    assert [entry.member] == await other.members("g")
    assert entry.id == joined[1] != first.id
    await slow.leave(entry)
    assert await other.members("g") == []


async def test_members_are_there_again_after_a_redis_that_lost_everything(
    redis_process: Any, own_redis_server: RedisServer
) -> None:
    one, two = redis_process(), redis_process()
    entries = [await one.enter("g", {"n": n}) for n in range(3)]
    own_redis_server.stop()
    own_redis_server.start()

    async with asyncio.timeout(60):
        while True:
            try:
                members = await two.members("g")
            except ConnectionError:
                members = []
            if len(members) == 3:
                break
            await asyncio.sleep(0.05)
    assert members == sorted(entry.member for entry in entries)


class Room(PresentConsumer, AsyncJsonWebsocketConsumer):
    """Enters the room under the name in the query, and tells its client everything."""

    async def connect(self) -> None:
        await self.accept()
        await self.send_json([member.data["user"] for member in await self.watch("room")])
        await self.enter("room", {"user": self.scope["query_string"].decode()})

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        if content == "fail":
            raise ZeroDivisionError
        await self.leave("room")

    async def presence_joined(self, event: Any) -> None:
        await self.send_json({"joined": event["member"]["data"]["user"]})

    async def presence_left(self, event: Any) -> None:
        await self.send_json({"left": event["member"]["data"]["user"]})


class TestAConsumer:
    @pytest.fixture(autouse=True)
    async def layer(self, make_layer: MakeLayer) -> AsyncIterator[None]:
        old = channel_layers.set("default", make_layer())
        yield
        await presence().close()
        channel_layers.backends.pop("default")
        if old is not None:
            channel_layers.set("default", old)

    async def test_sees_others_come_and_go(self) -> None:
        async with PatientWebsocket(Room.as_asgi(), "/?ann") as ann:
            await ann.connect()
            assert await ann.receive_json_from() == []
            assert await ann.receive_json_from() == {"joined": "ann"}
            async with PatientWebsocket(Room.as_asgi(), "/?bob") as bob:
                await bob.connect()
                assert await bob.receive_json_from() == ["ann"]
                assert await ann.receive_json_from() == {"joined": "bob"}
            assert await ann.receive_json_from() == {"left": "bob"}

    @pytest.mark.parametrize("end", ["leaves", "fails", "is cancelled"])
    async def test_a_consumer_is_no_member_any_more_however_it_ends(self, end: str) -> None:
        client = PatientWebsocket(Room.as_asgi(), "/?ann")
        await client.connect()
        assert await client.receive_json_from() == []
        assert await client.receive_json_from() == {"joined": "ann"}

        if end == "leaves":
            await client.disconnect()
        elif end == "fails":
            await client.send_json_to("fail")
            with pytest.raises(ZeroDivisionError):
                await client.wait()
        else:
            await client.stop()

        assert await presence().members("room") == []

    async def test_a_consumer_may_leave_before_its_end(self) -> None:
        async with PatientWebsocket(Room.as_asgi(), "/?ann") as client:
            await client.connect()
            await client.send_json_to("leave")

            frames = [await client.receive_json_from() for _ in range(3)]
            assert frames == [[], {"joined": "ann"}, {"left": "ann"}]


def test_a_layer_of_another_package_has_no_presence() -> None:
    with pytest.raises(InvalidChannelLayerError, match="BaseChannelLayer has no presence"):
        make_presence(BaseChannelLayer())
