"""How much is held of what peers have sent: in all, and of one address."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.bytes_in_hand import UNCOUNTED_BYTES, BytesInHand, Holding
from protocols.trusted_peers import TrustedPeers

A, B, C = ("192.0.2.1", 1), ("192.0.2.2", 1), ("192.0.2.3", 1)


def in_hand(*, in_all: int = 100_000, per_address: int = 40_000, proxies: tuple[str, ...] = ()) -> BytesInHand:
    return BytesInHand(in_all=in_all, per_address=per_address, proxies=TrustedPeers(proxies))


def test_one_address_has_less_than_all() -> None:
    held = in_hand()
    assert Holding(held, A).set(40_000) is None

    assert Holding(held, A).set(5_000) == "max_body_bytes_per_address"
    assert Holding(held, B).set(40_000) is None
    assert Holding(held, C).set(30_000) == "max_body_bytes_in_all"
    assert held.total == 80_000


def test_what_is_given_back_may_be_held_by_others() -> None:
    held = in_hand(in_all=40_000)
    first, second = Holding(held, A), Holding(held, B)
    first.set(40_000)
    assert second.set(5_000) is not None

    first.set(0)

    assert second.set(5_000) is None
    assert held.total == 5_000


def test_a_holding_that_cannot_grow_stays_as_it_was() -> None:
    held = in_hand()
    holding = Holding(held, A)
    holding.set(30_000)

    assert holding.set(40_001) is not None
    assert held.total == 30_000
    holding.set(0)
    assert held.total == 0


def test_small_ones_are_not_counted() -> None:
    held = in_hand()
    for _ in range(1000):
        assert Holding(held, A).set(UNCOUNTED_BYTES) is None

    assert held.total == 0


@pytest.mark.parametrize("client", [None, ("10.0.0.1", 1)])
def test_who_speaks_for_everybody_has_no_share_of_the_bytes_in_hand(client: tuple[str, int] | None) -> None:
    held = in_hand(proxies=("10.0.0.0/8",))

    assert Holding(held, client).set(90_000) is None
    assert Holding(held, client).set(20_000) == "max_body_bytes_in_all"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50_000)), max_size=60))
def test_the_sums_are_those_of_the_holdings(steps: list[tuple[int, int]]) -> None:
    held = in_hand()
    clients = [A, B, C, None, ("::ffff:192.0.2.1", 9)]
    holdings = [Holding(held, clients[number % len(clients)]) for number in range(10)]
    sizes = [0] * 10
    for number, size in steps:
        if holdings[number].set(size) is None:
            sizes[number] = size if size > UNCOUNTED_BYTES else 0
        assert held.total == sum(sizes) <= 100_000
        assert sum(sizes[each] for each in (0, 4, 5, 9)) <= 40_000

    for holding in holdings:
        holding.set(0)
    assert held.total == 0
    assert not held._by_network
