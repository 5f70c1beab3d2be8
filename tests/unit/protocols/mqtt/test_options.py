"""What an operator can set."""

from dataclasses import fields
from typing import Any

import pytest

from protocols.mqtt.options import BrokerLimits, MqttOptions


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ({"receive_maximum": 0}, "receive_maximum must be at least 1, not 0"),
        ({"receive_maximum": 65_536}, "receive_maximum must be at most 65535, not 65536"),
        ({"connect_timeout_s": 0.0}, "connect_timeout_s must be at least 0.01, not 0.0"),
        ({"max_topic_aliases": -1}, "max_topic_aliases must be at least 0, not -1"),
    ],
)
def test_a_value_out_of_range_is_named(option: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        MqttOptions(**option)


def test_every_option_says_what_it_is_for() -> None:
    assert all(option.metadata.get("help") for option in fields(MqttOptions))


def test_of_the_limits_of_the_broker_the_largest_counts() -> None:
    limits = BrokerLimits.of([MqttOptions(max_sessions=1, max_retained_messages=9), MqttOptions(max_sessions=5)])

    assert limits.max_sessions == 5
    assert limits.max_retained_messages == MqttOptions().max_retained_messages


def test_without_a_listener_the_defaults_count() -> None:
    assert BrokerLimits.of([]) == BrokerLimits.of([MqttOptions()])
