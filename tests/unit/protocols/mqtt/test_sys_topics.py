"""What the broker says of itself below `$SYS/` [MQTT5-4.7.2]: Mosquitto's topics and units."""

import pytest

from protocols.mqtt.codec.packets import Publish
from protocols.mqtt.statistics import Traffic
from protocols.mqtt.sys_topics import Load, SysTopics
from tests.unit.protocols.mqtt.harness import Client, World


class Reporting(World):
    """A broker with its status topics, looked at every 10 seconds."""

    def __init__(self, interval_s: int = 10) -> None:
        super().__init__()
        self.traffic = Traffic()
        self.status = SysTopics(self.broker, self.traffic, interval_s=interval_s, now=self.now)

    def report(self, connected: int = 0) -> None:
        self.pass_time(10)
        self.status.tick(connected, self.now)


def read(client: Client) -> dict[str, str]:
    return {packet.topic.removeprefix("$SYS/broker/"): packet.payload.decode() for packet in client.publishes()}


def subscribed(world: World, topic_filter: str = "$SYS/#") -> tuple[Client, dict[str, str]]:
    client = world.connected("watcher")
    packets = client.subscribe(topic_filter)
    retained = [packet for packet in packets if isinstance(packet, Publish)]
    assert all(packet.retain for packet in retained)
    return client, {packet.topic.removeprefix("$SYS/broker/"): packet.payload.decode() for packet in retained}


class TestTopics:
    def test_topics_are_those_of_mosquitto(self) -> None:
        world = Reporting()
        world.report()

        _, found = subscribed(world)

        rates = {
            f"load/{rate}/{span}"
            for rate in (
                *("bytes/received", "bytes/sent", "connections", "messages/received", "messages/sent"),
                *("publish/dropped", "publish/received", "publish/sent", "sockets"),
            )
            for span in ("1min", "5min", "15min")
        }
        assert set(found) - {"heap/current", "heap/maximum"} == rates | {
            *("bytes/received", "bytes/sent", "messages/received", "messages/sent", "messages/stored"),
            *("clients/active", "clients/connected", "clients/disconnected", "clients/expired", "clients/inactive"),
            *("clients/maximum", "clients/total"),
            *("publish/bytes/received", "publish/bytes/sent"),
            *("publish/messages/dropped", "publish/messages/received", "publish/messages/sent"),
            *("retained messages/count", "shared_subscriptions/count", "subscriptions/count"),
            *("store/messages/bytes", "store/messages/count", "uptime", "version"),
        }
        assert found["uptime"] == "10 seconds"
        assert found["version"].startswith("fieldgate version ")

    def test_topics_of_the_broker_are_not_matched_by_a_filter_that_begins_with_a_wildcard(self) -> None:
        world = Reporting()
        client, retained = subscribed(world, "#")
        world.report()

        assert retained == read(client) == {}

    def test_topics_are_sent_again_only_when_their_value_has_changed(self) -> None:
        world = Reporting()
        client, _ = subscribed(world)
        world.report()
        assert "bytes/received" in read(client)
        world.traffic.received_bytes = 5

        world.report()

        changed = read(client)
        assert changed["bytes/received"] == "5"
        assert "bytes/sent" not in changed

    def test_come_every_interval(self) -> None:
        world = Reporting()
        client, _ = subscribed(world, "$SYS/broker/uptime")

        for _ in range(20):
            world.pass_time(1)
            world.status.tick(0, world.now)

        assert [packet.payload for packet in client.publishes()] == [b"10 seconds", b"20 seconds"]

    def test_do_not_exist_with_an_interval_of_0(self) -> None:
        world = Reporting(interval_s=0)
        world.report()

        assert subscribed(world)[1] == {}


class TestValues:
    def test_count_clients_and_sessions(self) -> None:
        world = Reporting()
        world.connected("here")
        world.connected("kept", properties={"session_expiry_interval": 1000}).lose()
        world.connected("late", properties={"session_expiry_interval": 1}).lose()
        world.status.tick(3, world.now)

        world.report(connected=1)

        _, found = subscribed(world, "$SYS/broker/clients/+")
        assert found == {
            "clients/total": "2",
            "clients/connected": "1",
            "clients/active": "1",
            "clients/disconnected": "1",
            "clients/inactive": "1",
            "clients/expired": "1",
            "clients/maximum": "3",
        }

    def test_values_count_what_is_stored(self) -> None:
        world = Reporting()
        client = world.connected("kept", properties={"session_expiry_interval": 1000})
        client.subscribe("a", "b/+", "$share/group/c")
        client.lose()
        world.publish("a", b"12345", qos=1)
        world.publish("kept", b"123", retain=True)

        world.report()

        _, found = subscribed(world)
        assert found["store/messages/count"] == found["messages/stored"] == "2"
        assert found["store/messages/bytes"] == "13"
        assert found["retained messages/count"] == "1"
        assert (found["subscriptions/count"], found["shared_subscriptions/count"]) == ("2", "1")

    def test_values_of_load_are_averages_per_minute(self) -> None:
        load = Load()

        for _ in range(6 * 60):
            load.add(50, 10.0)

        assert load.averages["1min"] == pytest.approx(300)
        assert load.averages["15min"] == pytest.approx(300, rel=0.02)
        load.add(0, 60.0)
        assert load.averages["1min"] == pytest.approx(300 / 2.718, rel=0.01)


class TestOthers:
    def test_cannot_retain_a_message_there(self) -> None:
        world = Reporting()

        world.publish("$SYS/broker/version", b"forged", retain=True)

        assert subscribed(world)[1]["version"] != "forged"
        assert world.broker.dropped == {"retained_reserved": 1}

    def test_retain_the_state_of_a_bridge_as_any_message(self) -> None:
        world = Reporting()
        world.report()

        world.publish("$SYS/broker/connection/field.up/state", b"1", retain=True)

        for topic_filter in ("$SYS/#", "$SYS/broker/connection/+/state", "$SYS/broker/connection/field.up/state"):
            assert subscribed(world, topic_filter)[1]["connection/field.up/state"] == "1"
        assert subscribed(world)[1]["uptime"] == "10 seconds"
        assert len(world.broker.retained) == 1
        assert not world.broker.dropped

    @pytest.mark.parametrize("rest", ["", "/state", "a/b/state", "a/state/b", "a/State"])
    def test_retain_nothing_beside_it(self, rest: str) -> None:
        world = Reporting()

        world.publish(f"$SYS/broker/connection/{rest}", b"1", retain=True)

        assert world.broker.dropped == {"retained_reserved": 1}

    def test_find_no_status_among_the_retained_messages_that_are_counted(self) -> None:
        world = Reporting()
        world.report()

        assert len(world.broker.retained) == 0
