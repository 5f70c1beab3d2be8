"""How fast a client may send."""

import pytest

from protocols.mqtt.rate import Rate


def test_a_second_s_worth_comes_at_once_and_more_is_owed() -> None:
    rate = Rate(messages_per_s=10, bytes_per_s=0, now=0.0)

    assert rate.received(publishes=10, size=9_999, now=0.0)[0] == 0
    assert rate.received(publishes=15, size=0, now=0.0) == (0.5, "messages")
    assert rate.received(publishes=15, size=0, now=0.5)[0] == 0


def test_bytes_and_messages_are_two_limits_and_the_longer_pause_holds() -> None:
    rate = Rate(messages_per_s=10, bytes_per_s=1_000, now=0.0)

    assert rate.received(publishes=11, size=3_000, now=0.0) == (2.0, "bytes")


def test_who_goes_on_as_fast_as_can_be_read_is_slowed_without_a_break() -> None:
    rate, now = Rate(messages_per_s=10, bytes_per_s=0, now=0.0), 0.0
    for total in range(20, 400, 20):
        pause_s, _ = rate.received(publishes=total, size=0, now=now)
        now += pause_s

    assert rate.slowed_s(now) == pytest.approx(now)


def test_who_stays_below_after_a_burst_is_forgiven() -> None:
    rate = Rate(messages_per_s=10, bytes_per_s=0, now=0.0)
    rate.received(publishes=20, size=0, now=0.0)
    assert rate.slowed_s(1.0) == 1.0

    rate.received(publishes=21, size=0, now=3.0)

    assert rate.slowed_s(3.0) == 0
