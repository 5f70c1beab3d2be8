"""Wills [MQTT5-3.1.2.5] [MQTT5-3.1.3.2] and retained messages [MQTT5-3.3.1.3]."""

import pytest

from protocols.mqtt.codec.packets import Connect, Publish, ReasonCode, Subscription, Will
from protocols.mqtt.options import BrokerOptions, MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

KEEP = {"session_expiry_interval": 100}


def will(delay_s: int = 0, **fields: object) -> Will:
    properties = {"will_delay_interval": delay_s} if delay_s else {}
    return Will(topic="will", payload=b"gone", properties=properties, **fields)  # type: ignore[arg-type]


def watcher(world: World) -> Client:
    client = world.connected("watcher")
    client.subscribe("will")
    return client


class TestWill:
    @pytest.mark.mqtt("MQTT5-3.1.2-7", "MQTT5-3.1.2-8")
    def test_a_will_is_published_when_the_connection_is_lost(self) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will(qos=1)).lose()

        [packet] = subscriber.publishes()
        assert (packet.payload, packet.qos, packet.retain) == (b"gone", 1, False)

    def test_when_the_keep_alive_runs_out(self) -> None:
        world = World()
        subscriber = watcher(world)
        client = world.connected("c", will=will(), keep_alive_s=10)

        client.connection.check(world.now + 15, reading=True)

        assert subscriber.payloads() == [b"gone"]

    def test_a_will_is_published_when_the_session_is_taken_over(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will())

        world.connected("c")

        assert subscriber.payloads() == [b"gone"]

    @pytest.mark.mqtt("MQTT5-3.1.2-10", "MQTT5-3.14.4-3")
    def test_a_will_is_not_published_after_a_disconnect(self) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will()).disconnect()

        assert subscriber.payloads() == []

    def test_a_will_is_published_after_a_disconnect_that_wants_it(self) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will()).disconnect(ReasonCode.DISCONNECT_WITH_WILL)

        assert subscriber.payloads() == [b"gone"]

    def test_a_will_is_not_published_if_the_application_refused_the_connection(self) -> None:
        world = World()
        subscriber = watcher(world)
        client = world.client()
        client.send(Connect(version=5, client_id="c", will=will()))

        client.answer({"type": "mqtt.reject", "reason_code": 0x87})

        assert subscriber.payloads() == []

    def test_a_will_is_not_published_if_the_application_accepted_the_connection_without_it(self) -> None:
        world = World()
        subscriber = watcher(world)
        client = world.client()
        client.send(Connect(version=5, client_id="c", will=will()))

        client.answer({"type": "mqtt.accept", "will": False, "maximum_qos": 0})
        client.lose()

        assert client.connection.session is not None
        assert subscriber.payloads() == []

    def test_a_will_is_not_published_if_the_application_closes_the_connection_without_it(self) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will()).answer({"type": "mqtt.close", "will": False})

        assert subscriber.payloads() == []

    @pytest.mark.parametrize("event", [{"type": "mqtt.close"}, {"type": "mqtt.close", "will": True}])
    def test_a_will_is_published_if_the_application_closes_the_connection_otherwise(
        self, event: dict[str, object]
    ) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will()).answer(event)

        assert subscriber.payloads() == [b"gone"]

    @pytest.mark.mqtt("MQTT5-3.1.2-15")
    def test_a_will_may_be_retained(self) -> None:
        world = World()

        world.connected("c", will=will(retain=True)).lose()

        [packet] = watcher_gets(world)
        assert (packet.payload, packet.retain) == (b"gone", True)

    def test_a_server_that_stops_publishes_it(self) -> None:
        world = World()
        subscriber = watcher(world)
        client = world.connected("c", will=will(delay_s=10), properties=KEEP)

        client.connection.publish_will(world.now)
        client.connection.shut_down(world.now)

        assert subscriber.payloads() == [b"gone"]


def watcher_gets(world: World) -> list[Publish]:
    client = world.connected("late")
    return [packet for packet in client.subscribe("will") if isinstance(packet, Publish)]


class TestWillDelay:
    """[MQTT5-3.1.3.2.2]"""

    @pytest.mark.mqtt("MQTT5-3.1.2-8")
    def test_a_will_delay_is_waited_for(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will(delay_s=10), properties=KEEP).lose()

        world.pass_time(9)
        assert subscriber.payloads() == []
        world.pass_time(1)
        assert subscriber.payloads() == [b"gone"]
        world.pass_time(200)
        assert subscriber.payloads() == []

    @pytest.mark.mqtt("MQTT5-3.1.3-9")
    def test_a_client_that_comes_back_in_time_has_no_will_published(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will(delay_s=10), properties=KEEP).lose()
        world.pass_time(9)

        world.connected("c", clean_start=False, properties=KEEP)
        world.pass_time(100)

        assert subscriber.payloads() == []

    def test_a_client_that_starts_anew_ends_the_session_and_its_will_is_published(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will(delay_s=10), properties=KEEP).lose()

        world.connected("c", clean_start=True)

        assert subscriber.payloads() == [b"gone"]

    def test_the_end_of_the_session_ends_the_wait(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will(delay_s=1_000), properties=KEEP).lose()

        world.pass_time(100)

        assert subscriber.payloads() == [b"gone"]

    def test_a_connection_that_is_closed_without_its_will_has_none_to_wait_for(self) -> None:
        world = World()
        subscriber = watcher(world)
        client = world.connected("c", will=will(delay_s=10), properties=KEEP)

        client.answer({"type": "mqtt.close", "will": False})
        world.pass_time(1_000)

        assert subscriber.payloads() == []

    def test_a_session_that_ends_with_the_connection_has_no_delay(self) -> None:
        world = World()
        subscriber = watcher(world)

        world.connected("c", will=will(delay_s=10)).lose()

        assert subscriber.payloads() == [b"gone"]

    def test_a_server_that_stops_does_not_wait(self) -> None:
        world = World()
        subscriber = watcher(world)
        world.connected("c", will=will(delay_s=10), properties=KEEP).lose()

        world.broker.publish_pending_wills(world.now)

        assert subscriber.payloads() == [b"gone"]


class TestRetained:
    """[MQTT5-3.3.1.3]"""

    def retained(self, world: World, topic_filter: str = "#", **options: object) -> list[tuple[str, bytes, bool]]:
        client = world.connected("r")
        packets = client.subscribe(Subscription(topic_filter=topic_filter, qos=2, **options))  # type: ignore[arg-type]
        return [(packet.topic, packet.payload, packet.retain) for packet in packets if isinstance(packet, Publish)]

    @pytest.mark.mqtt("MQTT5-3.3.1-5", "MQTT5-3.3.1-9")
    def test_a_new_subscriber_gets_the_last_message_of_each_topic_that_matches(self) -> None:
        world = World()
        for topic, payload in (("a/1", b"old"), ("a/1", b"new"), ("a/2", b"x"), ("b", b"y")):
            world.publish(topic, payload, retain=True)

        assert self.retained(world, "a/+") == [("a/1", b"new", True), ("a/2", b"x", True)]

    def test_behind_the_suback(self) -> None:
        world = World()
        world.publish("a", b"x", retain=True)

        packets = world.connected("c").subscribe("a")

        assert [type(packet).__name__ for packet in packets] == ["SubAck", "Publish"]

    def test_which_leaves_in_a_write_of_its_own(self) -> None:
        client = World().connected("c")

        client.subscribe("a")

        assert client.flushes == 1

    @pytest.mark.mqtt("MQTT5-3.3.1-6", "MQTT5-3.3.1-7")
    def test_an_empty_message_deletes_it_and_is_delivered(self) -> None:
        world = World()
        client = world.connected("c")
        client.subscribe("a")
        world.publish("a", b"x", retain=True)

        world.publish("a", b"", retain=True)

        assert self.retained(world) == []
        assert client.payloads() == [b"x", b""]

    @pytest.mark.mqtt("MQTT5-3.3.1-8")
    def test_a_message_without_the_retain_flag_changes_nothing(self) -> None:
        world = World()
        world.publish("a", b"kept", retain=True)
        world.publish("a", b"passing")

        assert self.retained(world) == [("a", b"kept", True)]

    @pytest.mark.mqtt("MQTT5-3.8.3-3")
    def test_a_retained_message_does_not_go_back_to_its_publisher_with_no_local(self) -> None:
        world = World()
        client, other = world.connected("c"), world.connected("other")
        for publisher, topic in ((client, "a/own"), (other, "a/other")):
            [event] = publisher.send(Publish(topic=topic, payload=b"x", retain=True))
            publisher.ack(event)
        world.publish("a/program", b"x", retain=True)

        _, *packets = client.subscribe(Subscription(topic_filter="a/#", no_local=True))

        assert sorted(packet.topic for packet in packets if isinstance(packet, Publish)) == ["a/other", "a/program"]

    def test_a_retained_message_is_given_with_the_subscription_identifier(self) -> None:
        world = World()
        world.publish("a", b"x", retain=True)

        _, packet = world.connected("c").subscribe("a", identifier=7)

        assert isinstance(packet, Publish)
        assert packet.properties == {"subscription_identifier": [7]}

    @pytest.mark.mqtt("MQTT5-3.3.1-9", "MQTT5-3.3.1-10", "MQTT5-3.3.1-11", "MQTT5-3.8.4-4")
    @pytest.mark.parametrize(("handling", "first", "second"), [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
    def test_retain_handling(self, handling: int, first: int, second: int) -> None:
        world = World()
        world.publish("a", b"x", retain=True)
        client = world.connected("c")
        subscription = Subscription(topic_filter="a", retain_handling=handling)

        counts = [len(client.subscribe(subscription)) - 1 for _ in range(2)]

        assert counts == [first, second]

    def test_an_expired_message_is_gone(self) -> None:
        world = World()
        world.publish("a", b"x", retain=True, properties={"message_expiry_interval": 5})
        world.pass_time(5)

        assert self.retained(world) == []
        assert len(world.broker.retained) == 0

    def test_more_than_the_queue_holds_reach_a_subscriber_whose_socket_is_full(self) -> None:
        world = World(MqttOptions(max_queued_messages=1))
        for number in range(5):
            world.publish(f"a/{number}", b"x", retain=True)
        client = world.connected("c")
        client.connection.writer.writable = False
        client.subscribe("a/#")

        client.connection.resume_writing(world.now)

        assert len(client.publishes()) == 5

    def test_subscribing_over_and_over_does_not_fill_the_memory(self) -> None:
        world = World(MqttOptions(max_queued_messages=1))
        for number in range(5):
            world.publish(f"a/{number}", b"x", retain=True)
        client = world.connected("c")
        client.connection.writer.writable = False

        for _ in range(10):
            client.subscribe("a/#")

        assert client.connection.session is not None
        assert client.connection.session.outbox.queued <= 7

    @pytest.mark.parametrize(
        ("limits", "reason"),
        [
            ({"max_retained_messages": 1}, "retained_full"),
            ({"max_retained_bytes": 10}, "retained_full"),
            ({"max_topic_levels": 2}, "retained_too_deep"),
        ],
    )
    def test_what_does_not_fit_is_routed_but_not_retained(self, limits: dict[str, int], reason: str) -> None:
        world = World(limits=BrokerOptions(**limits))  # type: ignore[arg-type]
        client = world.connected("c")
        client.subscribe("#")
        world.publish("a", b"12345", retain=True)

        world.publish("b/c/d", b"12345", retain=True)

        assert client.payloads() == [b"12345", b"12345"]
        assert [topic for topic, _, _ in self.retained(world)] == ["a"]
        assert world.broker.dropped[reason] == 1

    def test_topics_of_so_many_levels_that_they_take_the_memory_of_more_messages_do_not_fit(self) -> None:
        world = World(limits=BrokerOptions(max_retained_messages=4))
        for name in ("a", "b"):
            world.publish(f"{name}/1" + 18 * "/x", b"1", retain=True)

        world.publish("c", b"1", retain=True)
        world.publish("a/1" + 18 * "/x", b"", retain=True)
        world.publish("d", b"1", retain=True)

        assert sorted(topic for topic, _, _ in self.retained(world)) == ["b/1" + 18 * "/x", "d"]
        assert world.broker.dropped["retained_full"] == 1
        assert world.broker.retained.levels == 21

    def test_a_message_in_place_of_another_always_fits_in_number(self) -> None:
        world = World(limits=BrokerOptions(max_retained_messages=1))
        world.publish("a", b"1", retain=True)
        world.publish("a", b"2", retain=True)

        assert self.retained(world) == [("a", b"2", True)]
