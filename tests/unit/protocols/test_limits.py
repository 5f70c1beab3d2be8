"""Who may connect: in all, from one address, how fast."""

import pytest

from protocols.limits import REMEMBERED, ConnectionLimits, TokenBucket, TokenBuckets
from protocols.trusted_peers import TrustedPeers

A, B = ("192.0.2.1", 1), ("192.0.2.2", 1)


def test_as_many_connections_are_admitted_as_may_be_at_a_time() -> None:
    limits = ConnectionLimits(connections=2)
    assert [limits.enter(A, 0), limits.enter(B, 0), limits.enter(B, 0)] == [None, None, "max_connections"]

    limits.leave(B)
    limits.leave(B)

    assert limits.open == 1
    assert limits.enter(A, 0) is None


def test_one_address_may_have_fewer_than_all() -> None:
    limits = ConnectionLimits(connections=10, per_address=2)
    for _ in range(2):
        assert limits.enter(A, 0) is None
    assert limits.enter(A, 0) == "max_connections_per_address"
    assert limits.enter(B, 0) is None

    limits.leave(A)
    limits.leave(A)

    assert limits.enter(A, 0) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
    ],
)
def test_the_network_of_one_customer_is_one_address(one: str, other: str, same: bool) -> None:
    limits = ConnectionLimits(connections=10, per_address=1)
    limits.enter((one, 1), 0)

    assert (limits.enter((other, 1), 0) is not None) == same


@pytest.mark.parametrize("client", [None, ("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("fe80::1%eth0", 1)])
def test_who_speaks_for_everybody_has_no_share_of_his_own(client: tuple[str, int] | None) -> None:
    limits = ConnectionLimits(connections=3, per_address=1, proxies=TrustedPeers(("10.0.0.0/8", "fe80::/10")))

    assert [limits.enter(client, 0) for _ in range(4)] == [None, None, None, "max_connections"]
    for _ in range(4):
        limits.leave(client)

    assert limits.open == 0
    assert limits.enter(A, 0) is None
    assert limits.enter(A, 0) == "max_connections_per_address"


def test_a_second_has_so_many_new_ones_and_a_burst_of_as_many() -> None:
    limits = ConnectionLimits(connections=100, per_s=3)
    clients = [(f"192.0.2.{number}", 1) for number in range(4)]
    assert [limits.enter(each, 100.0) for each in clients] == [None, None, None, "max_connects_per_s"]

    assert limits.enter(A, 100.4) is None
    assert limits.enter(B, 100.4) == "max_connects_per_s"
    assert [limits.enter(each, 200.0) for each in clients].count(None) == 3


def test_one_address_may_have_half_of_them() -> None:
    limits = ConnectionLimits(connections=1_000, per_s=10)

    assert [limits.enter(A, 100.0) for _ in range(100)].count("max_connects_per_s_of_address") == 95
    assert [limits.enter(B, 100.0) for _ in range(5)] == [None] * 5
    assert limits.enter(A, 100.2) is None


def test_a_bucket_is_full_at_first_and_fills_again() -> None:
    bucket = TokenBucket(2, 0.5, 100.0)
    bucket.take(2)

    assert bucket.left(100.0) == 0
    assert bucket.wait_s(1, 101.0) == 1
    assert bucket.left(102.0) == 1
    assert bucket.left(1_000.0) == 2


def test_a_bucket_from_which_more_is_taken_than_it_has_owes_the_rest() -> None:
    bucket = TokenBucket(2, 0.5, 100.0)
    bucket.take(3)

    assert bucket.wait_s(0, 100.0) == 2
    bucket.give_back(10)
    assert bucket.left(100.0) == 2


def test_the_buckets_that_are_kept_are_those_used_last() -> None:
    buckets = TokenBuckets(1, 1)
    for number in range(REMEMBERED):
        buckets.of(number, 0.0).take()
    buckets.of(0, 0.0)

    buckets.of("one more", 0.0)

    assert len(buckets) == REMEMBERED
    assert buckets.of(0, 0.0).left(0.0) == 0
    assert buckets.of(1, 0.0).left(0.0) == 1, "it was forgotten, and begins anew"
