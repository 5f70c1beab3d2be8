"""What is relied on of aiohttp's C parsers. A new minor release of aiohttp must pass this before the pin is moved."""

from pathlib import Path

import aiohttp._http_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.http.aiohttp_parsers import (
    _AIOHTTP,
    _OTHER_PROTOCOLS,
    _RULES,
    BINARY,
    CLOSE,
    PING,
    TEXT,
    BadRequestError,
    FrameCollector,
    FrameReader,
    RequestParser,
)
from tests.support.wire import masked

COMPILED_PARSER = Path(aiohttp._http_parser.__file__)
HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def parser() -> RequestParser:
    return RequestParser(max_target_bytes=100, max_header_bytes=100, max_headers=5)


@pytest.fixture
def reader() -> FrameReader:
    return FrameReader(FrameCollector(), max_message_bytes=1000)


class TestRequestParser:
    def test_the_request_parser_stops_after_each_request_and_keeps_the_rest(self, parser: RequestParser) -> None:
        head = parser.feed(GET + GET.replace(b"/a", b"/b") + b"GET /c")
        assert head is not None
        assert head.path == "/a"

        head = parser.feed(b"")
        assert head is not None
        assert head.path == "/b"

        assert parser.feed(b"") is None
        head = parser.feed(b" HTTP/1.1\r\nHost: x\r\n\r\n")
        assert head is not None
        assert head.path == "/c"

    def test_the_request_parser_gives_the_body_as_it_comes(self, parser: RequestParser) -> None:
        assert parser.feed(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhel")
        assert parser.has_body
        assert parser.take_body() == (b"hel", False)

        assert parser.feed(b"lo" + GET) is None
        assert parser.take_body() == (b"lo", True)
        assert not parser.has_body
        assert parser.feed(b"")

    def test_joins_chunks_and_does_not_decompress(self, parser: RequestParser) -> None:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
        assert parser.feed(head + b"3\r\nabc\r\n2;extension=1\r\nde\r\n0\r\n\r\n")

        assert parser.take_body() == (b"abcde", True)

    @pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
    @pytest.mark.parametrize(
        "body",
        [b"1\r\na\r\n0\r\nX-One: 1\r\nX-Two: 2\r\n\r\n", b"0\r\nX-One: 1\r\n\r\n", b"5\r\n\r\n\r\na\r\n0\r\n\r\n"],
    )
    def test_the_request_parser_keeps_the_trailer_fields_of_a_body_out_of_the_next_request(
        self, parser: RequestParser, body: bytes, size: int
    ) -> None:
        data = b"\r\n\r\nPOST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body + GET + GET
        heads = []
        for start in range(0, len(data) + 100, size):  # the last ones are of nothing, for what is kept
            head = parser.feed(data[start : start + size])
            if head is not None:
                heads.append((head.path, [name for name, _ in head.raw_headers]))
            if parser.has_body:
                parser.take_body()
        for _ in range(2):
            head = parser.feed(b"")
            if head is not None:
                heads.append((head.path, [name for name, _ in head.raw_headers]))

        assert heads == [("/a", [b"Host", b"Transfer-Encoding"]), ("/a", [b"Host"]), ("/a", [b"Host"])]

    def test_the_request_parser_gives_the_bytes_behind_an_upgrade(self, parser: RequestParser) -> None:
        head = parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x00")

        assert head is not None
        assert head.upgrade
        assert parser.take_upgraded() == b"\x81\x00"

    def test_the_request_parser_keeps_the_case_of_header_names_and_the_bytes_of_values(
        self, parser: RequestParser
    ) -> None:
        head = parser.feed(b"GET / HTTP/1.1\r\nhOST: x\r\nX-Name: \xc3\xa9 \t\r\n\r\n")

        assert head is not None
        assert tuple(head.raw_headers) == ((b"hOST", b"x"), (b"X-Name", b"\xc3\xa9"))

    @pytest.mark.parametrize("split", range(1, 12))
    def test_pieces_of_any_size_make_the_same_request(self, parser: RequestParser, split: int) -> None:
        data = b"POST /p?q=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\n\r\n"
        heads, body = [], b""
        for start in range(0, len(data), split):
            head = parser.feed(data[start : start + split])
            if head is not None:
                heads.append(head.path)
            if heads and parser.has_body:
                body += parser.take_body()[0]

        assert heads == ["/p?q=1"]
        assert body == b"wxyz"

    @pytest.mark.parametrize(
        ("data", "reason", "rule"),
        [
            (b"GET / HTTP/1.1\r\n\r\n", "bad_host", "Missing 'Host' header"),
            (b"GET / HTTP/1.1\r\nHost: s3cret\r\nHost: x\r\n\r\n", "bad_host", "Duplicate 'Host' header"),
            (HEAD + b"Content-Type: s3cret\r\nContent-Type: x\r\n\r\n", "malformed", "Duplicate 'Content-Type' header"),
            (HEAD + b"s3cret : b\r\n\r\n", "malformed", "a space before the colon"),
            (HEAD + b": s3cret\r\n\r\n", "malformed", "a header name is empty"),
            (HEAD + b"s3cret\r\n\r\n", "malformed", "has no colon"),
            (HEAD + b"A: b\r\n s3cret\r\n\r\n", "malformed", "a header goes on in the next line"),
            (b"GET / HTTP/1.1\r\n s3cret: x\r\n\r\n", "malformed", "Unexpected space after start line"),
            (HEAD + b"A: s3cret\x0b\r\n\r\n", "malformed", "Invalid header value char"),
            (b"GET / HTTP/1.1\r\nHost: s3cret\nA: b\r\n\r\n", "malformed", "a line does not end in CR LF"),
            (HEAD + b"A: s3cret\rb\r\n\r\n", "malformed", "a line does not end in CR LF"),
            (HEAD + b"\n", "malformed", "a line does not end in CR LF"),
            (b"GET /s3cret HTTP/1.1\nHost: x\n\n", "malformed", "behind the HTTP version there is no CR LF"),
            (b"GET /s3cret b HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "a space within the target"),
            (b"GET /s3cret http/1.1\r\nHost: x\r\n\r\n", "malformed", "no HTTP version in capitals"),
            (b"GET /s3cret HTTP/1.2\r\nHost: x\r\n\r\n", "malformed", "neither 1.0 nor 1.1"),
            (b"s3cret / HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "the method is unknown"),
            (b"get /s3cret HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "the method is unknown (they are in capitals)"),
            (b"GET\t/s3cret HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "Expected space after method"),
            (b"GET /s3cret\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "the target has a character"),
            (b"GET s3cret HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", "the target has a character"),
            (b"GET http://x:s3cret/ HTTP/1.1\r\nHost: x\r\n\r\n", "malformed", ""),
            (HEAD + b"Sec-WebSocket-Key1: s3cret\r\n\r\n", "malformed", ""),
            (POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "malformed", "with Content-Length"),
            (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "malformed", "with Transfer-Encoding"),
            (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "malformed", "Duplicate Content-Length"),
            (POST + b"Content-Length: -1\r\n\r\n", "malformed", "Invalid character in Content-Length"),
            (POST + b"Content-Length: +1\r\n\r\n", "malformed", "Invalid character in Content-Length"),
            (POST + b"Content-Length: s3cret\r\n\r\n", "malformed", "Invalid character in Content-Length"),
            (POST + b"Content-Length:\r\n\r\n", "malformed", "Empty Content-Length"),
            (POST + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", "malformed", "Content-Length overflow"),
            (POST + b"Transfer-Encoding: chunked, s3cret\r\n\r\n", "malformed", "Invalid `Transfer-Encoding`"),
            (POST + b"Transfer-Encoding: s3cret\r\n\r\n", "malformed", "invalid `Transfer-Encoding`"),
            (CHUNKED + b"0x1\r\n", "malformed", "Invalid character in chunk size"),
            (CHUNKED + b"f" * 20 + b"\r\n", "malformed", "Chunk size overflow"),
            (CHUNKED + b"1\ns\r\n", "malformed", "a line does not end in CR LF"),
            (CHUNKED + b"1\r\ns3cret\r\n", "malformed", "Expected LF after chunk data"),
            (CHUNKED + b"1;\x01\r\ns\r\n", "malformed", "Invalid character in chunk extensions name"),
            (CHUNKED + b"1\r\ns\r\n0\r\ns3cret : b\r\n\r\n", "malformed", "a space before the colon"),
            (b"\x16\x03\x01\x02\x00\x01", "malformed", "this is TLS"),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "malformed", "this is a PROXY header"),
            (b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x00", "malformed", "this is a PROXY header"),
            (b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00", "malformed", "this is MQTT"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "malformed", "this is HTTP/2"),
            (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\n", "head_too_large", ""),
            (HEAD + b"A: " + b"a" * 200, "head_too_large", ""),
            (HEAD + b"A: b\r\n" * 9 + b"\r\n", "too_many_headers", ""),
        ],
    )
    def test_the_request_parser_refuses_what_is_not_http_and_says_which_rule(
        self, parser: RequestParser, data: bytes, reason: str, rule: str
    ) -> None:
        with pytest.raises(BadRequestError) as caught:
            parser.feed(data)

        assert caught.value.reason == reason
        assert rule in caught.value.rule
        assert bool(caught.value.rule) == bool(rule)
        assert "s3cret" not in caught.value.rule

    @given(
        prefix=st.sampled_from([b"", b"GET /", b"GET / HTTP/1.1\r\n", HEAD, POST, CHUNKED]), data=st.binary(max_size=60)
    )
    def test_a_rule_has_no_byte_of_the_peer(self, prefix: bytes, data: bytes) -> None:
        parser = RequestParser(max_target_bytes=100, max_header_bytes=100, max_headers=5)
        rule = ""
        try:
            parser.feed(prefix + data + b"\r\n\x7f")
        except BadRequestError as error:
            rule = error.rule

        constants = COMPILED_PARSER.read_bytes()
        ours = (*_RULES.values(), *_OTHER_PROTOCOLS.values())
        assert rule in ours or rule.encode() in constants or _AIOHTTP.fullmatch(rule)

    def test_the_request_parser_lets_no_control_byte_through_in_a_value_but_tab_and_0x85(self) -> None:
        accepted = set()
        for byte in range(256):
            parser = RequestParser(max_target_bytes=9, max_header_bytes=99, max_headers=9)
            try:
                parser.feed(b"GET / HTTP/1.1\r\nHost: x\r\nA: b%cc\r\n\r\n" % byte)
            except BadRequestError:
                continue
            accepted.add(byte)

        assert accepted & {*range(0x20), 0x7F, 0x85} <= {0x09, 0x85}


class TestFrameReader:
    def test_the_frame_reader_reads_messages_and_control_frames(self, reader: FrameReader) -> None:
        frames = masked(0x81, "grün".encode()) + masked(0x82, b"\x00\xff") + masked(0x89, b"p") + masked(0x81)

        assert [(kind, data) for kind, data, _ in reader.feed(frames)] == [
            (TEXT, "grün"),
            (BINARY, b"\x00\xff"),
            (PING, b"p"),
            (TEXT, ""),
        ]
        assert reader.failed is None

    def test_the_frame_reader_gives_binary_messages_as_bytes(self, reader: FrameReader) -> None:
        assert type(reader.feed(masked(0x82, b"abc"))[0][1]) is bytes

    def test_joins_fragments_around_a_control_frame(self, reader: FrameReader) -> None:
        frames = masked(0x01, b"ab") + masked(0x89) + masked(0x00, b"cd") + masked(0x80, b"ef")

        assert [(kind, bytes(data) if kind is PING else data) for kind, data, _ in reader.feed(frames)] == [
            (PING, b""),
            (TEXT, "abcdef"),
        ]

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 900])
    def test_pieces_of_one_byte_make_the_same_messages(self, reader: FrameReader, size: int) -> None:
        frames = masked(0x82, b"x" * size) + masked(0x81, b"y" * size)
        messages = [message for byte in frames for message in reader.feed(bytes((byte,)))]

        assert [data for _, data, _ in messages] == [b"x" * size, "y" * size]
        assert reader.failed is None

    @pytest.mark.parametrize("size", [0, 125, 126, 70_000])
    def test_finds_the_unmasked_frame_among_masked_ones(self, size: int) -> None:
        frames = masked(0x82, b"x" * size) * 2 + b"\x81\x01a" + masked(0x81, b"late")
        for split in (1, 2, 7, len(frames)):
            reader = FrameReader(FrameCollector(), max_message_bytes=100_000)
            messages = []
            for start in range(0, len(frames), split):
                messages += reader.feed(frames[start : start + split])
                if reader.failed is not None:
                    break

            assert [len(data) for _, data, _ in messages] == [size, size]
            assert reader.failed is not None
            assert reader.failed.code == 1002

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            (masked(0xC1, b"a"), 1002),  # a reserved bit
            (masked(0x83, b"a"), 1002),  # a reserved opcode
            (masked(0x09), 1002),  # a fragmented control frame
            (masked(0x89, b"a" * 126), 1002),  # a long control frame
            (masked(0x80, b"a"), 1002),  # a continuation of nothing
            (masked(0x01, b"a") + masked(0x81, b"b"), 1002),  # a message within a message
            (masked(0x01) + masked(0x81, b"b"), 1002),  # the same after an empty fragment
            (masked(0x88, b"\x03"), 1002),  # half a close code
            (masked(0x88, b"\x03\xe7"), 1002),  # 999
            (masked(0x81, b"\xff"), 1007),
            (masked(0x88, b"\x03\xe8\xff"), 1007),
            (masked(0x82, b"a" * 1001), 1009),
            (masked(0x02, b"a" * 600) + masked(0x80, b"a" * 600), 1009),
        ],
    )
    def test_the_frame_reader_refuses_what_breaks_the_protocol(
        self, reader: FrameReader, frames: bytes, code: int
    ) -> None:
        reader.feed(frames)

        assert reader.failed is not None
        assert reader.failed.code == code

    @pytest.mark.parametrize("split", [1, 3, 100])
    def test_empty_fragments_are_part_of_a_message(self, reader: FrameReader, split: int) -> None:
        frames = masked(0x01) + masked(0x00) + masked(0x89) + masked(0x00, b"x") + masked(0x80) + masked(0x81, b"y")
        messages = [m for i in range(0, len(frames), split) for m in reader.feed(frames[i : i + split])]

        assert [data for kind, data, _ in messages if kind is TEXT] == ["x", "y"]
        assert reader.failed is None

    def test_the_frame_reader_takes_a_message_of_exactly_the_limit(self, reader: FrameReader) -> None:
        assert len(reader.feed(masked(0x82, b"a" * 1000))) == 1
        assert reader.failed is None

    def test_the_frame_reader_reads_the_code_and_reason_of_a_close_frame(self, reader: FrameReader) -> None:
        assert tuple(reader.feed(masked(0x88, b"\x0f\xa1bye"))[0]) == (CLOSE, 4001, "bye")
        assert tuple(reader.feed(masked(0x88))[0]) == (CLOSE, 0, "")

    def test_readers_that_share_a_collector_do_not_mix(self) -> None:
        collector = FrameCollector()
        one, two = (FrameReader(collector, max_message_bytes=10) for _ in range(2))
        one.feed(masked(0x81, b"one")[:5])
        two.feed(masked(0x81, b"\xff"))

        assert [data for _, data, _ in one.feed(masked(0x81, b"one")[5:])] == ["one"]
        assert one.failed is None
        assert two.failed is not None

    @given(
        messages=st.lists(
            st.tuples(
                st.lists(st.integers(0, 300), min_size=1, max_size=4),  # the sizes of a message's fragments
                st.lists(st.integers(0, 125), max_size=2),  # of the pings behind each of them
            ),
            min_size=1,
            max_size=4,
        ),
        step=st.integers(1, 40),
    )
    def test_the_frame_reader_tells_how_much_has_come_of_an_unfinished_message(
        self, messages: list[tuple[list[int], list[int]]], step: int
    ) -> None:
        stream, expected = b"", [-1]
        for fragments, pings in messages:
            size = 0
            for number, fragment in enumerate(fragments):
                last = number == len(fragments) - 1
                frame = masked((0x80 if last else 0) | (0 if number else 2), b"x" * fragment)
                header = len(frame) - fragment
                expected += [size if number else 0] * (header - 1) + [size + come for come in range(fragment + 1)]
                size += fragment
                if last:
                    expected[-1] = -1
                stream += frame
                for ping in pings:
                    frame = masked(0x89, b"y" * ping)
                    expected += [0 if last else size] * (len(frame) - 1) + [-1 if last else size]
                    stream += frame
        reader = FrameReader(FrameCollector(), max_message_bytes=2000)

        for at in range(0, len(stream), step):
            reader.feed(stream[at : at + step])
            assert reader.failed is None
            assert reader.unfinished_bytes == expected[min(at + step, len(stream))]
