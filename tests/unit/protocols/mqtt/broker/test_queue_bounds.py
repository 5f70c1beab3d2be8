"""What waits for all clients of a broker together is bounded, and what has gone leaves its room."""

from protocols.mqtt.codec.packets import Publish
from protocols.mqtt.options import BrokerOptions
from tests.unit.protocols.mqtt.harness import World

PAYLOAD = bytes(1_000)
KEPT = {"properties": {"session_expiry_interval": 1_000}}


def absent(world: World, client_id: str) -> None:
    """A client that has subscribed and gone."""
    client = world.connected(client_id, **KEPT)
    client.subscribe("a", qos=1)
    client.lose()


def test_messages_beyond_the_bound_are_dropped_and_counted() -> None:
    world = World(limits=BrokerOptions(max_queued_bytes_in_all=3_500))
    for name in ("one", "two"):
        absent(world, name)

    for _ in range(3):
        world.publish("a", PAYLOAD, qos=1)

    assert world.broker.owners.backlog.size_bytes <= 3_500
    assert world.broker.dropped["queues_full"] == 3


def test_what_is_delivered_makes_room() -> None:
    world = World()
    absent(world, "one")
    world.publish("a", PAYLOAD, qos=1)
    assert world.broker.owners.backlog.size_bytes > 1_000

    client = world.connected("one", clean_start=False, **KEPT)

    assert [packet.payload for packet in client.earlier if isinstance(packet, Publish)] == [PAYLOAD]
    assert world.broker.owners.backlog.size_bytes == 0


def test_a_session_that_ends_gives_its_bytes_back() -> None:
    world = World()
    absent(world, "one")
    world.publish("a", PAYLOAD, qos=1)

    world.pass_time(2_000)

    assert world.broker.owners.backlog.size_bytes == 0


def test_a_session_that_begins_anew_gives_its_bytes_back() -> None:
    world = World()
    absent(world, "one")
    world.publish("a", PAYLOAD, qos=1)

    world.connected("one", clean_start=True)

    assert world.broker.owners.backlog.size_bytes == 0
