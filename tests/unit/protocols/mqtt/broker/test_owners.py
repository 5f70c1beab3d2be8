"""Nobody has what all may have together: each bound in all has a share of one owner, or of one address."""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import entry_points
from typing import Final

import pytest

from protocols.handshake import HandshakingListener, RefusedError
from protocols.limits import RATE_SHARE, ConnectionLimits
from protocols.mqtt.broker.owners import size_of_subscription
from protocols.mqtt.codec.packets import ConnAck, Connect, PubAck, Publish, PubRec, ReasonCode, SubAck, Will
from protocols.mqtt.options import LEVELS_PER_RETAINED, BrokerOptions, MqttOptions
from protocols.server import ENTRY_POINT_GROUP, Listener, load_protocol
from tests.unit.protocols.mqtt.harness import Client, World

OPTIONS: Final = (MqttOptions, BrokerOptions, Listener)
NO_BOUND: Final = {"store", "sys_interval_s", "bind", "options", "ssl_context", "proxy_protocol", "allow_anonymous"}
OF_ONE: Final = {
    *("connect_timeout_s", "write_timeout_s", "max_slowed_s", "handshake_timeout_s", "dead_peer_timeout_s"),
    *("max_messages_per_s", "max_bytes_per_s", "max_packet_bytes", "receive_maximum", "max_inflight"),
    *("max_queued_messages", "max_queued_bytes", "max_subscriptions", "max_topic_length", "max_topic_levels"),
    *("max_topic_aliases", "max_keep_alive_s", "max_session_expiry_s"),
}
"""Bounds of one client, or of one message."""

KEPT: Final = {"clean_start": False, "properties": {"session_expiry_interval": 1_000}}

Check = Callable[[], None]
SHARED: dict[str, tuple[str, Check]] = {}
"""By bound in all: the option, if there is one, that says what one may have of it, and a test of it."""


def shared(bound: str, share: str) -> Callable[[Check], Check]:
    def enter(check: Check) -> Check:
        SHARED[bound] = share, check
        return check

    return enter


def refused(world: World, client_id: str, version: int, owner: str) -> ConnAck:
    client = world.client(version)
    client.send(Connect(version=version, client_id=client_id))
    client.answer({"type": "mqtt.accept", "owner": owner})
    [connack] = client.read()
    assert isinstance(connack, ConnAck)
    return connack


def retain(client: Client, topic: str, payload: bytes = b"x", qos: int = 1) -> PubAck | PubRec | None:
    """What the client is told of a message that it wants retained."""
    [event] = client.send(Publish(topic=topic, payload=payload, qos=qos, retain=True, packet_id=1 if qos else 0))
    client.ack(event)
    answers = [packet for packet in client.read() if isinstance(packet, PubAck | PubRec)]
    return answers[0] if answers else None


@shared("max_connections", "max_connections_per_address")
def greedy_address_leaves_connections() -> None:
    options = MqttOptions(max_connections=10, max_connections_per_address=3)
    limits = ConnectionLimits(connections=options.max_connections, per_address=options.max_connections_per_address)
    for _ in range(3):
        assert limits.enter(("192.0.2.1", 1), 0) is None

    assert limits.enter(("192.0.2.1", 1), 0) == "max_connections_per_address"
    assert limits.enter(("192.0.2.2", 1), 0) is None


@shared("max_connects_per_s", "")
def greedy_address_leaves_connects() -> None:
    limits = ConnectionLimits(connections=1_000, per_s=100)
    accepted = [limits.enter(("192.0.2.1", 1), 0) for _ in range(500)].count(None)

    assert accepted == 100 * RATE_SHARE
    assert limits.enter(("192.0.2.2", 1), 0) is None


@shared("max_handshakes", "max_handshakes_per_address")
def greedy_address_leaves_handshakes() -> None:
    listener = Listener(bind="127.0.0.1:0", options=None, max_handshakes_per_address=2, proxy_protocol=("10.0.0.1",))
    handshaking = HandshakingListener(listener, asyncio.Protocol)
    with ExitStack() as under_way:
        for port in range(2):
            under_way.enter_context(handshaking._share(("192.0.2.1", port)))

        with pytest.raises(RefusedError, match="2 connections of it are on their way in") as refusal:
            under_way.enter_context(handshaking._share(("192.0.2.1", 3)))
        assert refusal.value.reason == "too_many_handshakes_of_address"

        under_way.enter_context(handshaking._share(("192.0.2.2", 1)))
        for client in (("10.0.0.1", 1), None):  # proxies and local peers are everybody
            for _ in range(3):
                under_way.enter_context(handshaking._share(client))
    assert not handshaking._by_network


@shared("max_sessions", "max_sessions_per_owner")
def greedy_owner_leaves_sessions() -> None:
    for version, code in ((5, ReasonCode.QUOTA_EXCEEDED), (4, ReasonCode.SERVER_UNAVAILABLE)):
        world = World(limits=BrokerOptions(max_sessions=10, max_sessions_per_owner=3))
        for number in range(3):
            world.connected(str(number), owner="device/1", **KEPT).lose()

        connack = refused(world, "one more", version, "device/1")

        assert connack.reason_code == code
        if version == 5:
            assert connack.properties["reason_string"] == "max_sessions_per_owner is 3"
        assert world.broker.refused_sessions == {"max_sessions_per_owner": 1}
        world.connected("other", version, owner="device/2")
        world.connected("1", version, owner="device/1")  # a session of its own that is there


@shared("max_subscription_bytes_in_all", "max_subscription_bytes_per_owner")
def greedy_owner_leaves_subscriptions() -> None:
    size_bytes = size_of_subscription("a/b")
    limits = BrokerOptions(
        max_subscription_bytes_in_all=10 * size_bytes, max_subscription_bytes_per_owner=3 * size_bytes
    )
    world = World(limits=limits)
    for name in "123":
        client = world.connected(name, owner="device/1", **KEPT)
        client.subscribe("a/b")
        client.lose()
    greedy, other = world.connected("4", owner="device/1"), world.connected("5", owner="device/2")

    [suback] = greedy.subscribe("a/b")

    assert suback == SubAck(
        packet_id=1,
        reason_codes=(ReasonCode.QUOTA_EXCEEDED,),
        properties={"reason_string": f"max_subscription_bytes_per_owner is {3 * size_bytes}"},
    )
    assert world.broker.refused_filters == {"max_subscription_bytes_per_owner": 1}
    [suback] = other.subscribe("a/b")
    assert isinstance(suback, SubAck)
    assert suback.reason_codes == (2,)
    world.connected("1", owner="device/2", **KEPT)  # has moved
    assert {one.name: one.subscription_bytes for one in world.broker.owners} == {
        "device/1": 2 * size_bytes,
        "device/2": 2 * size_bytes,
    }
    world.broker.forget_owners({"device/1": "disabled", "device/2": "disabled"}, world.now)
    assert world.broker.owners.subscription_bytes == 0


@shared("max_queued_bytes_in_all", "max_queued_bytes_per_owner")
def greedy_owner_leaves_room_in_queues() -> None:
    world = World(limits=BrokerOptions(max_queued_bytes_in_all=10_000, max_queued_bytes_per_owner=2_500))
    for owner, names in (("device/1", "abc"), ("device/2", "d")):
        for name in names:
            client = world.connected(name, owner=owner, **KEPT)
            client.subscribe(owner, qos=1)
            client.lose()

    for owner in ("device/1", "device/2"):
        world.publish(owner, bytes(1_000), qos=1)

    assert world.broker.dropped == {"owner_queues_full": 1}
    back = world.connected("d", owner="device/2", **KEPT)
    assert [packet for packet in back.earlier if isinstance(packet, Publish)] != []


@shared("max_retained_messages", "max_retained_messages_per_owner")
def greedy_owner_leaves_retained_messages() -> None:
    world = World(limits=BrokerOptions(max_retained_messages=10, max_retained_messages_per_owner=3))
    greedy, other = world.connected("g", owner="device/1"), world.connected("o", owner="device/2")
    for number in range(3):
        assert retain(greedy, f"g/{number}") == PubAck(1)

    assert retain(greedy, "g/more") == PubAck(
        1, ReasonCode.QUOTA_EXCEEDED, {"reason_string": "not retained: max_retained_messages_per_owner is 3"}
    )
    assert world.broker.dropped == {"owner_retained_full": 1}
    assert retain(greedy, "g/0", b"new") == PubAck(1)  # in place of its own
    assert retain(other, "o") == PubAck(1)
    retain(greedy, "g/1", b"")
    assert retain(greedy, "g/more") == PubAck(1)


@shared("max_retained_bytes", "max_retained_bytes_per_owner")
def greedy_owner_leaves_retained_bytes() -> None:
    world = World(limits=BrokerOptions(max_retained_bytes=10_000, max_retained_bytes_per_owner=2_500))
    greedy, other = world.connected("g", owner="device/1"), world.connected("o", owner="device/2")
    for number in range(2):
        assert retain(greedy, str(number), bytes(1_000)) == PubAck(1)

    assert retain(greedy, "2", bytes(1_000), qos=2) == PubRec(
        1, ReasonCode.QUOTA_EXCEEDED, {"reason_string": "not retained: max_retained_bytes_per_owner is 2500"}
    )
    assert retain(greedy, "1", bytes(1_200)) == PubAck(1)
    assert retain(other, "o", bytes(1_000)) == PubAck(1)


@pytest.mark.parametrize("bound", SHARED)
def test_one_that_has_its_share_is_told_and_counted_and_another_is_served(bound: str) -> None:
    SHARED[bound][1]()


def test_every_bound_in_all_has_a_share() -> None:
    options = {each.name for cls in OPTIONS for each in dataclasses.fields(cls)} - NO_BOUND
    shares = {share for share, _ in SHARED.values() if share}

    assert options - OF_ONE - shares == set(SHARED)


@pytest.mark.parametrize(("bound", "share"), [(bound, share) for bound, (share, _) in SHARED.items() if share])
def test_by_default_a_share_is_well_below_the_bound(bound: str, share: str) -> None:
    defaults = {each.name: each.default for cls in OPTIONS for each in dataclasses.fields(cls)}

    assert 0 < defaults[share] <= defaults[bound] / 4


@pytest.mark.parametrize("protocol", [entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)])
def test_each_protocol_has_a_share_too(protocol: str) -> None:
    defaults = {each.name: each.default for each in dataclasses.fields(load_protocol(protocol).Options)}

    for bound in [name for name in defaults if name == "max_connections" or name.endswith("_in_all")]:
        stem = bound.removesuffix("_in_all")
        [share] = {f"{stem}_per_address", f"{stem}_per_owner"} & defaults.keys()
        assert 0 < defaults[share] <= defaults[bound] / 2, share


class TestRetained:
    def test_levels_of_topics_have_a_share_too(self) -> None:
        world = World(limits=BrokerOptions(max_retained_messages_per_owner=3))
        greedy, other = world.connected("g", owner="device/1"), world.connected("o", owner="device/2")
        deep = "/".join("d" * 3 * LEVELS_PER_RETAINED)
        assert retain(greedy, deep) == PubAck(1)

        assert retain(greedy, "shallow", qos=0) is None
        assert world.broker.dropped == {"owner_retained_full": 1}
        assert retain(other, "shallow") == PubAck(1)

    def test_one_that_cannot_be_told_reaches_its_subscribers_at_least(self) -> None:
        world = World(limits=BrokerOptions(max_retained_messages_per_owner=0))
        listener = world.connected("l")
        listener.subscribe("#")
        for version, qos in ((4, 1), (4, 0), (5, 0)):
            retain(world.connected("g", version, owner="device/1"), "a", qos=qos)
        assert len(listener.take()) == 3

        assert retain(world.connected("g", owner="device/1"), "a", qos=1) != PubAck(1)
        assert listener.take() == []

    def test_a_topic_that_another_takes_over_counts_as_the_others(self) -> None:
        world = World()
        one, two = world.connected("1", owner="device/1"), world.connected("2", owner="device/2")
        retain(one, "a", b"12345")
        retain(two, "a", b"1")

        counts = {owner.name: (owner.retained_messages, owner.retained_bytes) for owner in world.broker.owners}
        assert counts == {"device/1": (0, 0), "device/2": (1, 2)}

    def test_what_the_server_publishes_has_the_bound_in_all_alone(self) -> None:
        world = World(limits=BrokerOptions(max_retained_messages=5, max_retained_messages_per_owner=1))
        for number in range(6):
            world.publish(str(number), b"x", retain=True)

        assert len(world.broker.retained) == 5
        assert world.broker.dropped == {"retained_full": 1}


class TestOwners:
    def test_one_is_known_as_long_as_it_has_something(self) -> None:
        world = World()
        client = world.connected("c", owner="device/1")
        retain(client, "a")
        assert [owner.name for owner in world.broker.owners] == ["device/1"]

        client.lose()
        assert [owner.sessions for owner in world.broker.owners] == [0]
        world.broker.forget_retained("a")

        assert list(world.broker.owners) == []

    def test_a_refused_session_leaves_none(self) -> None:
        world = World(limits=BrokerOptions(max_sessions=1))
        world.connected("c", owner="device/1")
        refused(world, "d", 5, "device/2")

        assert [owner.name for owner in world.broker.owners] == ["device/1"]

    def test_without_a_word_of_the_application_the_owner_is_the_address(self) -> None:
        world = World()
        client = world.client()
        client.connection.address = "192.0.2.1"
        client.send(Connect(version=5, client_id="c"))
        client.answer({"type": "mqtt.accept"})

        assert [owner.name for owner in world.broker.owners] == ["192.0.2.1"]

    def test_a_session_that_comes_back_as_anothers_counts_as_the_others_with_what_waits(self) -> None:
        world = World()
        client = world.connected("c", owner="192.0.2.1", **KEPT)
        client.subscribe("a", qos=1)
        client.lose()
        world.publish("a", bytes(1_000), qos=1)

        away = world.client()
        away.send(Connect(version=5, client_id="c", **KEPT))  # type: ignore[arg-type]
        away.answer({"type": "mqtt.accept", "owner": "192.0.2.2"})

        [owner] = world.broker.owners
        assert (owner.name, owner.sessions) == ("192.0.2.2", 1)

    def test_a_session_that_comes_back_as_anothers_is_refused_beside_its_connection_if_the_other_has_its_share(
        self,
    ) -> None:
        world = World(limits=BrokerOptions(max_sessions_per_owner=1))
        first = world.connected("c", owner="192.0.2.1")
        world.connected("d", owner="192.0.2.2")

        assert refused(world, "c", 5, "192.0.2.2").reason_code == ReasonCode.QUOTA_EXCEEDED
        assert first.connection.end is None

    def test_what_is_delivered_makes_room_again(self) -> None:
        world = World()
        client = world.connected("c", owner="device/1", **KEPT)
        client.subscribe("a", qos=1)
        client.lose()
        world.publish("a", bytes(1_000), qos=1)
        [owner] = world.broker.owners
        assert owner.queued_bytes > 1_000

        world.connected("c", owner="device/1", **KEPT)

        assert owner.queued_bytes == 0
        assert world.broker.owners.backlog.size_bytes == 0


class TestForgetting:
    """An owner that is cut off for good takes nothing from anybody any more."""

    def test_sessions_of_present_and_absent_clients_end_with_what_waits_and_what_is_retained(self) -> None:
        world = World()
        absent = world.connected("absent", owner="device/1", **KEPT)
        absent.subscribe("a", qos=1)
        absent.lose()
        present = world.connected("present", owner="device/1", **KEPT)
        other = world.connected("other", owner="device/2", **KEPT)
        for client, topic in ((present, "mine"), (present, "$own/mine"), (other, "theirs")):
            retain(client, topic)
        world.publish("a", bytes(1_000), qos=1)

        assert world.broker.forget_owners({"device/1": "disabled", "device/3": "deleted"}, world.now) == (2, 2)

        assert present.reason == ("application", ReasonCode.NOT_AUTHORIZED)
        assert [session.client_id for session in world.broker.sessions.values()] == ["other"]
        assert [message.topic for message in world.broker.retained] == ["theirs"]
        assert [owner.name for owner in world.broker.owners] == ["device/2"]
        assert world.broker.owners.backlog.size_bytes == 0

    def test_a_will_is_not_published_of_one_that_may_publish_no_more(self) -> None:
        world = World()
        listener = world.connected("l")
        listener.subscribe("#")
        will = Will(topic="w", payload=b"x", properties={"will_delay_interval": 100})
        world.connected("absent", owner="device/1", will=will, **KEPT).lose()
        world.connected("present", owner="device/1", will=will, **KEPT)

        world.broker.forget_owners({"device/1": "disabled"}, world.now)
        world.pass_time(2_000)

        assert listener.take() == []

    def test_nobody_is_not_forgotten(self) -> None:
        world = World()
        world.connected("c")

        assert world.broker.forget_owners({"": "x"}, world.now) == (0, 0)
        assert len(world.broker.sessions) == 1
