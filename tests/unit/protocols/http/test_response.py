"""Response heads: framing, standard headers, and what must not get onto the wire."""

import pytest

from protocols.http.response import HeadEncoder, is_event_stream, plain_response

Headers = list[tuple[bytes, bytes]]


@pytest.fixture
def encoder() -> HeadEncoder:
    return HeadEncoder("gw", clock=lambda: 784111777.5)


def encode(
    encoder: HeadEncoder,
    headers: Headers | None = None,
    *,
    status: int = 200,
    body_length: int | None = 3,
    http_10: bool = False,
    keep_alive: bool = True,
) -> tuple[bytes, int | None, bool, bool]:
    return encoder.encode(status, headers or [], body_length=body_length, http_10=http_10, keep_alive=keep_alive)


def test_a_complete_body_gets_its_length(encoder: HeadEncoder) -> None:
    data, length, chunked, keep_alive = encode(encoder, [(b"content-type", b"text/plain")])

    assert data.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"content-type: text/plain",
        b"content-length: 3",
        b"date: Sun, 06 Nov 1994 08:49:37 GMT",
        b"server: gw",
        b"",
        b"",
    ]
    assert (length, chunked, keep_alive) == (3, False, True)


def test_a_streamed_body_gets_chunks(encoder: HeadEncoder) -> None:
    data, length, chunked, keep_alive = encode(encoder, body_length=None)
    assert b"transfer-encoding: chunked\r\n" in data
    assert (length, chunked, keep_alive) == (None, True, True)


def test_a_streamed_body_over_http_10_ends_with_the_connection(encoder: HeadEncoder) -> None:
    data, _, chunked, keep_alive = encode(encoder, body_length=None, http_10=True)
    assert b"connection: close\r\n" in data
    assert (chunked, keep_alive) == (False, False)


def test_http_10_is_told_that_the_connection_is_kept(encoder: HeadEncoder) -> None:
    assert b"connection: keep-alive\r\n" in encode(encoder, http_10=True)[0]


def test_the_length_of_the_application_wins(encoder: HeadEncoder) -> None:
    data, length, chunked, _ = encode(encoder, [(b"Content-Length", b"10")], body_length=None)
    assert (length, chunked) == (10, False)
    assert data.lower().count(b"content-length") == 1


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_body_gets_no_framing(encoder: HeadEncoder, status: int) -> None:
    data, *_ = encode(encoder, status=status, body_length=0)
    assert b"content-length" not in data
    assert b"transfer-encoding" not in data


def test_the_framing_headers_of_the_application_are_dropped(encoder: HeadEncoder) -> None:
    data, _, _, keep_alive = encode(encoder, [(b"Transfer-Encoding", b"chunked"), (b"Connection", b"Close")])
    assert b"chunked" not in data
    assert data.count(b"onnection") == 1
    assert not keep_alive


def test_the_date_and_server_of_the_application_win(encoder: HeadEncoder) -> None:
    data, *_ = encode(encoder, [(b"date", b"today"), (b"SERVER", b"me")])
    assert data.count(b"date:") == 1
    assert b"gw" not in data


def test_the_server_header_can_be_left_out() -> None:
    assert b"server" not in encode(HeadEncoder(""))[0]


def test_the_date_follows_the_clock() -> None:
    now = [0.0]
    encoder = HeadEncoder("gw", clock=lambda: now[0])
    first = encode(encoder)[0]
    now[0] = 0.9
    assert encode(encoder)[0] == first
    now[0] = 1.0
    assert b"00:00:01 GMT" in encode(encoder)[0]
    now[0] = 0.5
    assert encode(encoder)[0] == first


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\0b"])
def test_a_value_cannot_begin_another_line(encoder: HeadEncoder, value: bytes) -> None:
    with pytest.raises(ValueError, match="CR, LF or NUL"):
        encode(encoder, [(b"location", value)])


@pytest.mark.parametrize("name", [b"", b"a b", b"a:b", b"a\r\nb", b"\xc3\xa9"])
def test_a_name_is_a_token(encoder: HeadEncoder, name: bytes) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        encode(encoder, [(name, b"v")])


@pytest.mark.parametrize("lengths", [[b"a"], [b"-1"], [b"1", b"1"], [b""]])
def test_a_bad_or_second_length_is_refused(encoder: HeadEncoder, lengths: list[bytes]) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        encode(encoder, [(b"content-length", length) for length in lengths])


@pytest.mark.parametrize("status", [0, 100, 199, 1000, "200", None])
def test_a_status_is_one_of_a_final_response(encoder: HeadEncoder, status: int) -> None:
    with pytest.raises(ValueError, match="final response"):
        encode(encoder, status=status)


def test_a_status_without_a_name_has_an_empty_one(encoder: HeadEncoder) -> None:
    assert encode(encoder, status=299)[0].startswith(b"HTTP/1.1 299 \r\n")


def test_event_streams_are_known_by_their_type() -> None:
    assert is_event_stream([(b"Content-Type", b"text/event-stream; charset=utf-8")])
    assert not is_event_stream([(b"content-type", b"text/html")])


def test_a_response_of_the_servers_own_ends_the_connection(encoder: HeadEncoder) -> None:
    data = plain_response(431, server=encoder)
    assert data.startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")
    assert b"connection: close\r\n" in data
    assert data.endswith(b"\r\n\r\n431 Request Header Fields Too Large\n")
