"""What the log says of messages that were lost and filters that were refused."""

import pytest

from protocols.mqtt.options import MqttOptions
from protocols.mqtt.statistics import INTERVAL_S, DropReport
from tests.unit.protocols.mqtt.harness import World


def of_one_absent_client(world: World, messages: int) -> None:
    client = world.connected("absent", properties={"session_expiry_interval": 1_000})
    client.subscribe("a")
    client.lose()
    for _ in range(messages):
        world.publish("a", b"12345", qos=1)


def test_a_full_queue_is_told_with_whose_it_is(caplog: pytest.LogCaptureFixture) -> None:
    world = World(MqttOptions(max_queued_messages=2))
    world.connected("nothing waits for it")
    of_one_absent_client(world, 5)

    DropReport().add(world.broker.dropped, world.broker, now=0.0)

    [line] = caplog.messages
    assert line == (
        "messages lost: the queues of their clients are full (max_queued_messages, max_queued_bytes);"
        " 3 since the last such line; the longest queues: absent (2 messages, 12 bytes)"
    )


def test_nobody_is_named_when_the_queues_that_were_full_are_empty_again(caplog: pytest.LogCaptureFixture) -> None:
    DropReport().add({"queue_full": 3}, World().broker, now=0.0)

    [line] = caplog.messages
    assert line.endswith("; 3 since the last such line")


def test_who_has_as_many_subscriptions_as_it_may_is_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World(MqttOptions(max_subscriptions=2))
    world.connected("greedy").subscribe("a", "b", "c")

    DropReport().add(world.broker.refused_filters, world.broker, now=0.0)

    [line] = caplog.messages
    assert line == (
        "topic filters refused: their clients have as many as they may (max_subscriptions);"
        " 1 since the last such line; the most subscriptions: greedy (2)"
    )


def test_what_goes_on_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    report, broker = DropReport(), World().broker
    for second in range(int(INTERVAL_S) + 1):
        report.add({"retained_full": 2}, broker, now=float(second))

    assert [line.split("; ")[1] for line in caplog.messages] == [
        "2 since the last such line",
        "120 since the last such line",
    ]


def test_each_bound_has_its_own_line(caplog: pytest.LogCaptureFixture) -> None:
    report, broker = DropReport(), World().broker
    report.add({"queue_full": 1}, broker, now=0.0)
    report.add({"retained_full": 1, "retained_too_deep": 1}, broker, now=1.0)

    assert len(caplog.messages) == 3


def test_what_is_as_it_should_be_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    """Messages that expired, and those at QoS 0 for clients that are away."""
    DropReport().add({"expired": 5, "disconnected": 7}, World().broker, now=0.0)

    assert caplog.messages == []
