"""Retained messages that the application is asked about before a subscriber gets them (docs/events.md)."""

from typing import Any

import pytest

from protocols.asgi import Event
from protocols.mqtt.codec.packets import SubAck, Subscribe, Subscription, Unsubscribe
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.retained_queries import MAX_ASKED
from protocols.mqtt.trace import Tap, Trace
from tests.unit.protocols.mqtt.harness import Client, World

REFUSED = 0x87


def retaining(*topics: str, **options: Any) -> World:
    world = World(MqttOptions(**options))
    for topic in topics:
        world.publish(topic, topic.encode(), retain=True, qos=1)
    return world


def subscribe(client: Client, *filters: str | Subscription, packet_id: int = 1, **ack: Any) -> list[Event]:
    """Subscribes, has the application grant it, and returns what that is asked then."""
    subscriptions = tuple(Subscription(topic_filter=one, qos=1) if isinstance(one, str) else one for one in filters)
    [event] = client.send(Subscribe(packet_id=packet_id, subscriptions=subscriptions))
    asked = len(client.events)
    client.ack(event, **{"reason_codes": [1] * len(subscriptions), "check_retained": True} | ack)
    return client.events[asked:]


def unsubscribe(client: Client, topic_filter: str) -> None:
    [event] = client.send(Unsubscribe(packet_id=9, topic_filters=(topic_filter,)))
    client.ack(event)
    client.read()


def answer(client: Client, event: Event, *codes: int) -> list[Event]:
    """Answers about each topic, and returns what the application is asked next."""
    asked = len(client.events)
    client.ack(event, reason_codes=list(codes) or [0] * len(event["topics"]))
    return client.events[asked:]


def queries(client: Client) -> int:
    """How many SUBSCRIBE packets have retained messages that the application is, or is to be, asked about."""
    requests = client.connection.requests
    assert requests is not None
    return len(requests._queries or ())


class TestAskedFor:
    def test_the_application_is_asked_about_the_topics_when_the_suback_is_on_its_way(self) -> None:
        client = retaining("a/1", "a/2", "b").connected("c")

        [event] = subscribe(client, "a/+")

        assert event == {"type": "mqtt.retained", "ack_id": event["ack_id"], "topics": ["a/1", "a/2"]}
        assert [type(packet) for packet in client.read()] == [SubAck]

    def test_only_what_it_allows_is_sent(self) -> None:
        client = retaining("a/open", "a/secret", "a/public").connected("c")
        [event] = subscribe(client, "a/#")
        client.read()

        answer(client, event, 0, REFUSED, 0)

        packets = client.publishes()
        assert [(packet.topic, packet.qos, packet.retain) for packet in packets] == [
            ("a/open", 1, True),
            ("a/public", 1, True),
        ]

    def test_an_application_that_does_not_want_it_is_not_asked(self) -> None:
        client = retaining("a").connected("c")

        assert subscribe(client, "a", check_retained=False) == []
        assert client.payloads() == [b"a"]

    def test_an_application_is_not_asked_where_nothing_is_retained(self) -> None:
        client = retaining("a").connected("c")

        assert subscribe(client, "b") == []
        assert not queries(client)

    def test_an_application_is_not_asked_about_filters_that_it_refuses(self) -> None:
        client = retaining("a", "b").connected("c")

        [event] = subscribe(client, "a", "b", reason_codes=[1, REFUSED])

        assert event["topics"] == ["a"]

    def test_an_application_is_not_asked_about_shared_subscriptions_which_get_nothing_retained(self) -> None:
        client = retaining("a").connected("c")

        assert subscribe(client, "$share/group/a") == []

    def test_an_application_is_not_asked_where_the_client_wants_nothing_retained(self) -> None:
        client = retaining("a").connected("c")

        assert subscribe(client, Subscription(topic_filter="a", retain_handling=2)) == []

    def test_an_application_is_asked_about_what_the_broker_says_of_itself_too(self) -> None:
        world = retaining()
        world.broker.publish_status("$SYS/broker/uptime", "1", world.now)
        client = world.connected("c")

        [event] = subscribe(client, "$SYS/#")
        answer(client, event)

        assert event["topics"] == ["$SYS/broker/uptime"]
        assert client.payloads() == [b"1"]

    def test_the_trace_tells_what_was_refused(self) -> None:
        client = retaining("a/secret").connected("c")
        trace = Trace("c")
        client.connection.watch(Tap([trace], "c", "here"))
        [event] = subscribe(client, "a/#")

        client.ack(event, reason_codes=[REFUSED], reason_string="no right to read")

        refused = trace._events[-1]
        assert (refused.kind, refused.packet) == ("refused", "retained")
        assert refused.text == "'a/secret' 0x87 no right to read"


class TestBatches:
    def test_an_application_is_asked_about_a_hundred_at_a_time_and_next_when_it_has_answered(self) -> None:
        topics = [f"a/{number}" for number in range(2 * MAX_ASKED + 1)]
        client = retaining(*topics).connected("c")
        [event] = subscribe(client, "a/+")
        client.read()

        asked: list[list[str]] = []
        events = [event]
        while events:
            [event] = events
            asked.append(event["topics"])
            events = answer(client, event)

        assert [len(batch) for batch in asked] == [MAX_ASKED, MAX_ASKED, 1]
        assert [topic for batch in asked for topic in batch] == topics
        assert [packet.topic for packet in client.take()] == topics

    def test_a_batch_holds_what_several_filters_match(self) -> None:
        client = retaining("a", "b").connected("c")

        [event] = subscribe(client, "a", "b", "c")

        assert event["topics"] == ["a", "b"]

    def test_one_subscribe_is_asked_about_after_the_other(self) -> None:
        client = retaining("a", "b").connected("c")
        [first] = subscribe(client, "a")

        assert subscribe(client, "b", packet_id=2) == []
        [second] = answer(client, first)

        assert second["topics"] == ["b"]
        assert second["ack_id"] != first["ack_id"]

    def test_a_client_that_subscribes_faster_than_the_application_answers_is_not_read(self) -> None:
        client = retaining("a").connected("c")
        [event] = subscribe(client, "a")
        while not client.connection.congested:
            assert subscribe(client, "a") == []
        waiting = queries(client)
        assert 60 <= waiting <= 64

        while client.connection.congested:
            [event] = answer(client, event)

        assert queries(client) < waiting

    def test_an_answer_about_more_or_fewer_topics_is_an_error(self) -> None:
        client = retaining("a", "b").connected("c")
        [event] = subscribe(client, "#")

        with pytest.raises(ValueError, match="expected 2 reason_codes, one for each that was asked about; got 1"):
            client.ack(event, reason_codes=[0])

    def test_a_second_answer_is_counted_and_does_nothing(self) -> None:
        client = retaining("a").connected("c")
        [event] = subscribe(client, "a")
        answer(client, event)
        client.read()

        answer(client, event)

        assert client.payloads() == []
        assert client.connection.unknown_acks == 1


class TestMeanwhile:
    """Between the question and the answer the world goes on."""

    def test_the_message_that_is_retained_by_then_is_sent(self) -> None:
        world = retaining("a")
        client = world.connected("c")
        [event] = subscribe(client, Subscription(topic_filter="a", qos=1))
        client.read()
        world.publish("a", b"newer", retain=True)
        client.read()

        answer(client, event)

        assert client.payloads() == [b"newer"]

    def test_a_message_that_was_removed_meanwhile_is_not_sent(self) -> None:
        world = retaining("a", "b")
        client = world.connected("c")
        [event] = subscribe(client, "a", "b")
        world.broker.forget_retained("a")

        answer(client, event)

        assert client.payloads() == [b"b"]

    def test_a_message_that_has_expired_meanwhile_is_not_sent(self) -> None:
        world = World()
        world.publish("a", b"old", retain=True, properties={"message_expiry_interval": 10})
        client = world.connected("c")
        [event] = subscribe(client, "a")
        world.pass_time(10)

        answer(client, event)

        assert client.payloads() == []
        assert len(world.broker.retained) == 0

    def test_what_is_published_goes_by_the_filter_and_waits_for_no_answer(self) -> None:
        world = retaining("a/1")
        client = world.connected("c")
        subscribe(client, "a/+")
        client.read()

        world.publish("a/2", b"live")

        assert client.payloads() == [b"live"]

    def test_a_client_that_has_given_the_filter_up_gets_nothing(self) -> None:
        client = retaining("a", "b").connected("c")
        [event] = subscribe(client, "a", "b")
        unsubscribe(client, "a")

        answer(client, event)

        assert client.payloads() == [b"b"]

    def test_a_client_that_has_subscribed_again_and_wants_nothing_retained_gets_nothing(self) -> None:
        client = retaining("a").connected("c")
        [event] = subscribe(client, "a")
        unsubscribe(client, "a")
        subscribe(client, Subscription(topic_filter="a", retain_handling=2))
        client.read()

        answer(client, event)

        assert client.payloads() == []

    def test_an_application_is_not_asked_about_a_filter_that_was_given_up(self) -> None:
        topics = [f"a/{number}" for number in range(MAX_ASKED)]
        client = retaining(*topics, "b").connected("c")
        [event] = subscribe(client, "a/+", "b")
        unsubscribe(client, "b")

        assert answer(client, event) == []

    def test_if_the_application_keeps_the_subscription_the_messages_come(self) -> None:
        client = retaining("a").connected("c")
        [event] = subscribe(client, "a")
        [unsubscribed] = client.send(Unsubscribe(packet_id=9, topic_filters=("a",)))
        client.ack(unsubscribed, reason_codes=[REFUSED])

        answer(client, event)

        assert client.payloads() == [b"a"]

    def test_a_client_that_has_subscribed_again_gets_them_by_its_new_options(self) -> None:
        client = retaining("a").connected("c")
        [event] = subscribe(client, "a")
        subscribe(client, Subscription(topic_filter="a", qos=0, retain_handling=1), reason_codes=[0])
        client.read()

        answer(client, event)

        assert [packet.qos for packet in client.publishes()] == [0]

    def test_a_client_that_has_gone_gets_nothing_also_when_it_is_back(self) -> None:
        world = retaining("a")
        keep = {"session_expiry_interval": 100}
        client = world.connected("c", properties=keep)
        [event] = subscribe(client, "a")
        client.disconnect()

        answer(client, event)

        assert client.connection.unknown_acks == 0
        assert world.connected("c", clean_start=False, properties=keep).earlier == []

    def test_a_client_that_has_gone_gets_nothing_where_the_subscribe_itself_is_granted_after_the_end(self) -> None:
        world = retaining("a")
        keep = {"session_expiry_interval": 100}
        client = world.connected("c", properties=keep)
        [event] = client.send(Subscribe(packet_id=1, subscriptions=(Subscription(topic_filter="a"),)))
        client.disconnect()

        client.ack(event, reason_codes=[0], check_retained=True)

        assert client.events == [event]
        back = world.connected("c", clean_start=False, properties=keep)
        assert back.earlier == []
        world.publish("a", b"live")
        assert back.payloads() == [b"live"]
