"""The opening handshake (RFC 6455 §4.2), and frames as a server writes them, with the examples of RFC 6455 §5.7."""

import pytest

from protocols.http.aiohttp_parsers import RequestParser
from protocols.http.refusals import Refusal
from protocols.http.response import HeadEncoder
from protocols.http.websocket_wire import (
    Offer,
    accept_response,
    close_frame,
    frame,
    may_close_with,
    message_frame,
    offer_of,
)

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
VERSION = b"Sec-WebSocket-Version: 13"


def offer(*headers: bytes, line: bytes = b"GET /chat HTTP/1.1") -> Offer | Refusal:
    parser = RequestParser(max_target_bytes=8190, max_header_bytes=8190, max_headers=100)
    head = parser.feed(
        b"\r\n".join([line, b"Host: x", b"Connection: keep-alive, Upgrade", b"Upgrade: WebSocket", *headers, b"", b""])
    )
    assert head is not None
    return offer_of(head)


def test_the_example_of_the_rfc() -> None:
    assert offer(KEY, VERSION) == Offer(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", [])


def test_subprotocols_are_read_in_order_from_all_headers() -> None:
    found = offer(KEY, VERSION, b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: c,,d")
    assert isinstance(found, Offer)
    assert found.subprotocols == ["a", "b", "c", "d"]


@pytest.mark.parametrize("version", [b"Sec-WebSocket-Version: 8", b"Sec-WebSocket-Version: 13, 8", b"A: b"])
def test_another_version_is_told_which_one(version: bytes) -> None:
    refusal = offer(KEY, version)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 426
    assert (b"sec-websocket-version", b"13") in refusal.headers


@pytest.mark.parametrize(
    "key", [[], [KEY, KEY], [b"Sec-WebSocket-Key: c2hvcnQ="], [b"Sec-WebSocket-Key: \xff"], [b"Sec-WebSocket-Key:"]]
)
def test_a_missing_or_bad_key_is_refused(key: list[bytes]) -> None:
    refusal = offer(*key, VERSION)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1", b"GET / HTTP/1.0"])
def test_another_method_or_version_of_http_is_refused(line: bytes) -> None:
    refusal = offer(KEY, VERSION, line=line)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


class TestAccept:
    encoder = HeadEncoder("gw", clock=lambda: 0)
    offered = Offer(b"accept=", ["mqtt", "chat"])

    def test_names_the_subprotocol_and_adds_headers(self) -> None:
        response = accept_response(self.encoder, self.offered, subprotocol="chat", headers=[(b"set-cookie", b"a=b")])
        assert response.split(b"\r\n") == [
            b"HTTP/1.1 101 Switching Protocols",
            b"upgrade: websocket",
            b"connection: Upgrade",
            b"sec-websocket-accept: accept=",
            b"sec-websocket-protocol: chat",
            b"set-cookie: a=b",
            b"date: Thu, 01 Jan 1970 00:00:00 GMT",
            b"server: gw",
            b"",
            b"",
        ]

    def test_accept_takes_only_a_subprotocol_that_was_offered(self) -> None:
        with pytest.raises(ValueError, match="was not offered"):
            accept_response(self.encoder, self.offered, subprotocol="other")

    def test_accept_does_not_repeat_what_was_offered_which_may_be_a_token(self) -> None:
        with pytest.raises(ValueError, match="other") as raised:
            accept_response(self.encoder, Offer(b"accept=", ["s3cr3tt0k3n"]), subprotocol="other")

        assert "s3cr3tt0k3n" not in str(raised.value)

    @pytest.mark.parametrize(
        "header",
        [(b"Sec-WebSocket-Extensions", b"permessage-deflate"), (b"connection", b"close"), (b"a", b"b\r\nc: d")],
    )
    def test_accept_takes_no_header_that_would_break_the_handshake(self, header: tuple[bytes, bytes]) -> None:
        with pytest.raises(ValueError, match=r"must not set|CR, LF"):
            accept_response(self.encoder, self.offered, headers=[header])


# Frames


def test_a_text_is_an_unmasked_text_frame() -> None:
    assert message_frame("Hello") == b"\x81\x05Hello"
    assert message_frame("") == b"\x81\x00"
    assert message_frame("é") == b"\x81\x02\xc3\xa9"


def test_bytes_are_a_binary_frame() -> None:
    assert message_frame(b"Hello") == b"\x82\x05Hello"
    assert message_frame(b"x" * 256) == b"\x82\x7e\x01\x00" + b"x" * 256
    assert message_frame(b"x" * 65536) == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"x" * 65536


@pytest.mark.parametrize(("size", "head"), [(125, b"\x81\x7d"), (126, b"\x81\x7e\0\x7e"), (65535, b"\x81\x7e\xff\xff")])
def test_the_length_takes_as_few_bytes_as_it_can(size: int, head: bytes) -> None:
    assert message_frame("x" * size) == head + b"x" * size


def test_the_same_object_is_framed_once() -> None:
    text = "".join(["a", "b"] * 100)
    assert message_frame(text) is message_frame(text)
    assert message_frame("".join(["a", "b"] * 100)) == message_frame(text)


def test_an_object_that_can_change_is_framed_each_time() -> None:
    buffer = bytearray(b"one")
    assert message_frame(buffer) == b"\x82\x03one"  # type: ignore[arg-type]
    buffer[:] = b"two"
    assert message_frame(buffer) == b"\x82\x03two"  # type: ignore[arg-type]


def test_control_frames() -> None:
    assert frame(0x89, b"Hello") == b"\x89\x05Hello"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert close_frame(None) == b"\x88\x00"


def test_a_long_reason_is_cut_between_characters() -> None:
    framed = close_frame(1000, "é" * 100)
    assert len(framed) == 2 + 2 + 122
    assert framed[4:].decode() == "é" * 61


def test_close_codes_that_may_be_on_the_wire() -> None:
    allowed = {code for code in range(6000) if may_close_with(code)}
    assert allowed == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
