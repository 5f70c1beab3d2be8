"""Addresses as people, proxies and headers write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.addresses import parse_address, parse_network, parse_node
from protocols.trusted_peers import TrustedPeers

V4, V6 = "203.0.113.9", "2001:db8::7"


@pytest.mark.parametrize(
    ("text", "node"),
    [
        (V4, (V4, 0)),
        (f"{V4}:17085", (V4, 17_085)),
        (V6, (V6, 0)),
        (f"[{V6}]", (V6, 0)),
        (f"[{V6}]:4711", (V6, 4711)),
        (f'"{V4}"', (V4, 0)),
        (f'"{V4}:80"', (V4, 80)),
        (f'"[{V6}]:80"', (V6, 80)),
        (f"  {V4}\t", (V4, 0)),
        ("2001:DB8:0:0::7", (V6, 0)),
        (f"::ffff:{V4}", (V4, 0)),
        (f"[::ffff:{V4}]:1", (V4, 1)),
        (f"[{V4}]:1", (V4, 1)),
        *(
            (text, None)
            for text in (
                "",
                "unknown",
                "_hidden",
                "_hidden:_port",
                "localhost",
                f"{V4}:",
                f"{V4}:65536",
                f"{V4}:1:2",
                f"{V4}:_port",
                f"{V4}:-1",
                f"{V6}]",
                f"[{V6}",
                f"[{V6}]4711",
                f'"{V4}',
                f'{V4}"',
                f"{V4} 10.0.0.1",
                "203.0.113.256",
                "203.0.113",
                "0x7f.1",
                "127.1",
                "fe80::1%eth0",
                "[fe80::1%25eth0]",
                "fe80::1%\x9b31m",
                "\u0661.1.1.1",
                f"{V4}\n",
                f"{V4}/24",
            )
        ),
    ],
)
def test_a_client_is_read_in_every_form_that_proxies_write_and_in_no_other(
    text: str, node: tuple[str, int] | None
) -> None:
    assert parse_node(text) == node


@given(address=st.ip_addresses().filter(lambda each: "%" not in str(each)), port=st.integers(0, 65_535))
def test_each_address_is_read_from_each_of_its_forms(address: object, port: int) -> None:
    known = parse_address(str(address))
    assert known is not None

    forms = [f"[{address}]", f"[{address}]:{port}", f"{address}" if ":" in str(address) else f"{address}:{port}"]
    for form in [*forms, *(f'"{form}"' for form in forms)]:
        node = parse_node(form)
        assert node is not None
        assert node[0] == str(known)
        assert node[1] in (0, port)


@given(st.text(max_size=60))
def test_whatever_is_written_is_an_address_or_nothing(text: str) -> None:
    node = parse_node(text)

    assert node is None or parse_address(node[0]) is not None


@pytest.mark.parametrize(
    ("trusted", "member", "stranger"),
    [
        ("10.0.0.0/8", "10.1.2.3", "11.0.0.1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3", "::ffff:11.0.0.1"),
        ("::ffff:10.0.0.0/104", "10.1.2.3", "11.0.0.1"),
        ("::1", "::1", "::2"),
        ("[::1]", "::1", "127.0.0.1"),
        ("[2001:db8::]/32", "2001:db8::7", "2001:db9::7"),
        (" 192.0.2.1 ", "192.0.2.1", "192.0.2.2"),
        ("fe80::/10", "fe80::1%eth0", "2001:db8::1"),
    ],
)
def test_a_network_is_written_as_people_write_it(trusted: str, member: str, stranger: str) -> None:
    peers = TrustedPeers((trusted,))

    assert (member, 1) in peers
    assert (stranger, 1) not in peers
    assert None not in peers


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "host bits set"),
        ("10.0.0.5:443", "has a port"),
        ("[::1]:443", "has a port"),
        ("proxy.example", "not a network or address"),
        ("", "not a network or address"),
        ("10.0.0.0/33", "not a network or address"),
    ],
)
def test_an_entry_that_is_no_network_is_an_error_that_says_why(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_network(text)
