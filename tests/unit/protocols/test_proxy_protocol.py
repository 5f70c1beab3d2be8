"""The PROXY protocol: headers of both versions, byte by byte, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.proxy_protocol import SIGNATURE, Proxied, ProxyHeaderError, missing, parse

TCP4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + b"\xdc\x04\x07\x5b"
TCP6 = bytes.fromhex("20010db8" + "0" * 23 + "1" + "20010db8" + "0" * 23 + "2") + b"\xdc\x04\x07\x5b"
MAPPED = b"".join(bytes(10) + b"\xff\xff" + TCP4[at : at + 4] for at in (0, 4)) + TCP4[8:]


def v2(body: bytes = TCP4, *, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


HEADERS = [
    (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n", Proxied(("192.0.2.1", 56_324), ("192.0.2.2", 1883))),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 1883\r\n", Proxied(("2001:db8::1", 56_324), ("2001:db8::2", 1883))),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n",
        Proxied(("255.255.255.255", 65_535), ("255.255.255.255", 0)),
    ),
    (b"PROXY TCP6 2001:DB8:0::1 ::ffff:192.0.2.2 1 2\r\n", Proxied(("2001:db8::1", 1), ("192.0.2.2", 2))),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", None),
    (v2(), Proxied(("192.0.2.1", 56_324), ("192.0.2.2", 1883))),
    (v2(TCP6, family=0x21), Proxied(("2001:db8::1", 56_324), ("2001:db8::2", 1883))),
    (v2(MAPPED, family=0x21), Proxied(("192.0.2.1", 56_324), ("192.0.2.2", 1883))),
    (v2(TCP4 + b"\x04\x00\x02hi"), Proxied(("192.0.2.1", 56_324), ("192.0.2.2", 1883))),
    (v2(bytes(216), family=0x31), Proxied(None, None)),
    (v2(b"", family=0x00), None),
    (v2(b"", command=0x20, family=0x00), None),
    (v2(TCP4, command=0x20), None),
]


@pytest.mark.parametrize(("header", "proxied"), HEADERS)
def test_a_header_is_read_exactly_whatever_follows(header: bytes, proxied: Proxied | None) -> None:
    stream = header + b"\x10\x0c\x00\x04MQTT"
    read = b""
    while count := missing(read):
        read += stream[len(read) : len(read) + count]

    assert read == header
    assert parse(read) == proxied


@pytest.mark.parametrize(("header", "proxied"), HEADERS)
def test_one_that_comes_a_byte_at_a_time_too(header: bytes, proxied: Proxied | None) -> None:
    for size in range(len(header)):
        assert 0 < missing(header[:size]) <= len(header) - size

    assert missing(header) == 0


@pytest.mark.parametrize(
    "stream",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00",
        b"PROXYTCP4 ",
        b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY " + b"x" * 102,
        b"\r\n\r\nGET",
        v2(bytes(4_081)),
    ],
)
def test_what_is_no_header_is_refused_as_soon_as_that_is_certain(stream: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        missing(stream)


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY \r\nxxxxxxx\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
        b"PROXY TCP4  192.0.2.1 192.0.2.2 56324 443\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 56324 443\r\n",
        b"PROXY TCP4 2001:db8::1 192.0.2.2 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n",
        b"PROXY TCP6 fe80::1%forged 2001:db8::2 56324 443\r\n",
        b"PROXY TCP6 [2001:db8::1] 2001:db8::2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1:80 192.0.2.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 056324 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 -1 443\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 \xd9\xa1 443\r\n",
        v2(command=0x11),
        v2(command=0x22),
        v2(family=0x12),
        v2(family=0x41),
        v2(TCP4[:-1]),
        v2(TCP4, family=0x21),
    ],
)
def test_a_header_that_says_nothing_sensible_is_refused(header: bytes) -> None:
    assert missing(header) == 0
    with pytest.raises(ProxyHeaderError):
        parse(header)


@given(
    st.one_of(
        st.binary(max_size=64),
        st.binary(max_size=64).map(b"PROXY ".__add__),
        st.binary(max_size=64).map(SIGNATURE.__add__),
    )
)
def test_whatever_comes_is_a_header_or_refused(stream: bytes) -> None:
    try:
        if not missing(stream):
            parse(stream)
    except ProxyHeaderError:
        pass
