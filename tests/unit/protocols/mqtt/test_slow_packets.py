"""A packet that has begun comes on, or the connection ends, whatever the keep alive is."""

import pytest

from protocols.mqtt.codec.decoder import encode
from protocols.mqtt.codec.packets import PingReq, Publish, Subscribe, Subscription, Unsubscribe
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

DRIP_S = 5.0
"""A byte each so many seconds."""
PACKETS = {
    "PUBLISH": Publish(topic="t", payload=b"x" * 300),
    "SUBSCRIBE": Subscribe(packet_id=1, subscriptions=[Subscription(topic_filter="t" * 300, qos=0)]),
    "UNSUBSCRIBE": Unsubscribe(packet_id=1, topic_filters=["t" * 300]),
}


def receive(client: Client, data: bytes) -> None:
    client.connection.receive(data, client.world.now)


def pass_time(client: Client, seconds: float) -> None:
    """As a server has it: the connection is looked at when its deadline has passed."""
    client.world.now += seconds
    if client.connection.deadline <= client.world.now:
        client.connection.check(client.world.now, reading=True)


@pytest.mark.parametrize("keep_alive_s", [0, 60, 3600])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("kind", PACKETS)
def test_one_that_drips_ends_it_wherever_it_begins_to(kind: str, version: int, keep_alive_s: int) -> None:
    data = encode(PACKETS[kind], version)
    for cut in range(1, len(data), 7):
        client = World().connected("c", version, keep_alive_s=keep_alive_s)
        receive(client, data[:cut])
        waited_s = 0.0
        for at in range(cut, len(data)):
            pass_time(client, DRIP_S)
            waited_s += DRIP_S
            if client.connection.end is not None:
                break
            receive(client, data[at : at + 1])

        if len(data) - cut > 10:
            assert client.connection.end is not None, cut
            assert client.connection.end.text == "a packet did not come on"
            assert waited_s <= 40


def test_one_on_a_slow_line_is_taken() -> None:
    client = World(MqttOptions(max_packet_bytes=300_000)).connected("c", 4, keep_alive_s=0)
    data = encode(Publish(topic="t", payload=b"x" * 200_000), 4)
    for at in range(0, len(data), 1000):
        receive(client, data[at : at + 1000])
        pass_time(client, 1)

    assert client.connection.end is None
    assert client.connection.received_packets == 2


@pytest.mark.parametrize(("keep_alive_s", "silence_s", "ends"), [(0, 1e6, False), (60, 89, False), (60, 91, True)])
def test_a_client_that_owes_nothing_has_its_keep_alive(keep_alive_s: int, silence_s: float, ends: bool) -> None:
    client = World().connected("c", 4, keep_alive_s=keep_alive_s)
    data = encode(PACKETS["PUBLISH"], 4)
    receive(client, data[:100])
    pass_time(client, 20)
    receive(client, data[100:] + encode(PingReq(), 4))
    pass_time(client, silence_s)

    assert (client.connection.end is not None) == ends


def test_what_we_do_not_read_is_not_held_against_the_client() -> None:
    client = World().connected("c", 4, keep_alive_s=0)
    receive(client, encode(PACKETS["PUBLISH"], 4)[:100])
    for _ in range(10):
        client.world.now += 100
        client.connection.check(client.world.now, reading=False)
    assert client.connection.end is None

    pass_time(client, 31)
    assert client.connection.end is not None
