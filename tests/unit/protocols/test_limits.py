"""Who may connect: in all, from one address, how fast."""

import pytest

from protocols.limits import RATES, Admission
from protocols.trusted_peers import TrustedPeers

A, B = ("192.0.2.1", 1), ("192.0.2.2", 1)


def test_as_many_as_may_be_at_a_time() -> None:
    admission = Admission(connections=2)
    assert [admission.enter(A, 0), admission.enter(B, 0), admission.enter(B, 0)] == [None, None, "max_connections"]

    admission.leave(B)
    admission.leave(B)

    assert admission.open == 1
    assert admission.enter(A, 0) is None


def test_one_address_may_have_fewer_than_all() -> None:
    admission = Admission(connections=10, per_address=2)
    for _ in range(2):
        assert admission.enter(A, 0) is None
    assert admission.enter(A, 0) == "max_connections_per_address"
    assert admission.enter(B, 0) is None

    admission.leave(A)
    admission.leave(A)

    assert admission.enter(A, 0) is None


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
    admission = Admission(connections=10, per_address=1)
    admission.enter((one, 1), 0)

    assert (admission.enter((other, 1), 0) is not None) == same


@pytest.mark.parametrize("client", [None, ("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("fe80::1%eth0", 1)])
def test_who_speaks_for_everybody_has_no_share_of_his_own(client: tuple[str, int] | None) -> None:
    admission = Admission(connections=3, per_address=1, proxies=TrustedPeers(("10.0.0.0/8", "fe80::/10")))

    assert [admission.enter(client, 0) for _ in range(4)] == [None, None, None, "max_connections"]
    for _ in range(4):
        admission.leave(client)

    assert admission.open == 0
    assert admission.enter(A, 0) is None
    assert admission.enter(A, 0) == "max_connections_per_address"


def test_a_second_has_so_many_new_ones_and_a_burst_of_as_many() -> None:
    admission = Admission(connections=100, per_s=3)
    clients = [(f"192.0.2.{number}", 1) for number in range(4)]
    assert [admission.enter(each, 100.0) for each in clients] == [None, None, None, "max_connects_per_s"]

    assert admission.enter(A, 100.4) is None
    assert admission.enter(B, 100.4) == "max_connects_per_s"
    assert [admission.enter(each, 200.0) for each in clients].count(None) == 3


def test_one_address_may_have_half_of_them() -> None:
    admission = Admission(connections=1_000, per_s=10)

    assert [admission.enter(A, 100.0) for _ in range(100)].count("max_connects_per_s_of_address") == 95
    assert [admission.enter(B, 100.0) for _ in range(5)] == [None] * 5
    assert admission.enter(A, 100.2) is None


def test_the_addresses_whose_rates_are_known_are_bounded() -> None:
    admission = Admission(connections=100_000, per_s=1e9)
    for number in range(RATES + 10):
        client = (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        admission.enter(client, 0.0)

    assert len(admission._rates) == RATES
