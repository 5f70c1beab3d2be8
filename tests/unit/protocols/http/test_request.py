"""From request heads to scopes: targets, headers, hosts, and proxies that are trusted or not."""

import pytest

from protocols.http.aiohttp_parsers import RequestHead, RequestParser
from protocols.http.request import Forwarding, http_scope, lowered, refusal_of, split_target, websocket_scope


def parsed(line: bytes = b"GET / HTTP/1.1", *headers: bytes) -> RequestHead:
    parser = RequestParser(max_target_bytes=8190, max_header_bytes=8190, max_headers=100)
    head = parser.feed(b"\r\n".join([line, *(headers or (b"Host: x",)), b"", b""]))
    assert head is not None
    return head


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "parts"),
        [
            ("/", ("/", b"/", b"", None)),
            ("/a/b?c=d&e", ("/a/b", b"/a/b", b"c=d&e", None)),
            ("/a?b?c", ("/a", b"/a", b"b?c", None)),
            ("/gr%C3%BCn%2Fx?y=%20", ("/grün/x", b"/gr%C3%BCn%2Fx", b"y=%20", None)),
            ("/%ff", ("/�", b"/%ff", b"", None)),
            ("//double", ("//double", b"//double", b"", None)),
            ("*", ("*", b"*", b"", None)),
            ("http://h:81/p?q", ("/p", b"/p", b"q", b"h:81")),
            ("HTTP://h?a/b", ("/", b"/", b"a/b", b"h")),
            ("https://[::1]", ("/", b"/", b"", b"[::1]")),
        ],
    )
    def test_targets_are_taken_apart(self, target: str, parts: object) -> None:
        assert split_target(target) == parts

    @pytest.mark.parametrize("target", ["", "a", "ftp://h/", "http://", "http://a@b/", "http:///p"])
    def test_targets_of_other_forms_are_refused(self, target: str) -> None:
        assert split_target(target) is None


class TestRefusals:
    def test_a_plain_request_is_not_refused(self) -> None:
        assert refusal_of(parsed()) is None
        assert refusal_of(parsed(b"GET / HTTP/1.0", b"A: b")) is None

    @pytest.mark.parametrize(
        ("line", "status", "reason"),
        [
            (b"GET / HTTP/2.0", 505, "http_version"),
            (b"GET /", 505, "http_version"),
            (b"CONNECT x:1 HTTP/1.1", 405, "connect"),
            (b"GET /a#b HTTP/1.1", 400, "bad_target"),
        ],
    )
    def test_a_request_line_may_be_refused(self, line: bytes, status: int, reason: str) -> None:
        refusal = refusal_of(parsed(line))
        assert refusal is not None
        assert (refusal.status, refusal.reason) == (status, reason)

    @pytest.mark.parametrize("host", [b"x", b"a.b-c_d:80", b"[::1]:8000", b"192.0.2.1"])
    def test_a_host_may_be(self, host: bytes) -> None:
        assert refusal_of(parsed(b"GET / HTTP/1.1", b"Host: " + host)) is None

    @pytest.mark.parametrize("host", [b"", b"a/b", b"a b", b"a@b", b"a:b", b"[::1", b"a?b", b"a,b", b"a\\b"])
    def test_a_host_may_not_be(self, host: bytes) -> None:
        refusal = refusal_of(parsed(b"GET / HTTP/1.1", b"Host: " + host))
        assert refusal is not None
        assert refusal.reason == "bad_host"

    def test_chunks_over_http_1_0(self) -> None:
        """RFC 9112 §6.1"""
        refusal = refusal_of(parsed(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"))

        assert refusal is not None
        assert (refusal.status, refusal.reason) == (400, "chunked_http_10")

    def test_a_transfer_coding_below_the_chunks(self) -> None:
        """RFC 9112 §6.1: nobody here would undo it."""
        refusal = refusal_of(parsed(b"POST / HTTP/1.1", b"Host: x", b"Transfer-Encoding: gzip, chunked"))

        assert refusal is not None
        assert (refusal.status, refusal.reason) == (501, "transfer_coding")
        assert refusal_of(parsed(b"POST / HTTP/1.1", b"Host: x", b"Transfer-Encoding:\tChunked")) is None

    def test_a_byte_that_somebody_may_take_for_a_line_break(self) -> None:
        refusal = refusal_of(parsed(b"GET / HTTP/1.1", b"Host: x", b"A: b\x85c"))
        assert refusal is not None
        assert refusal.reason == "control_byte"


class TestScopes:
    def test_a_scope_has_every_key_of_the_specification(self) -> None:
        head = parsed(b"PUT /%61?b HTTP/1.1", b"Host: x", b"X-CamelCase: Value")
        target = split_target(head.path)
        assert target is not None

        scope = http_scope(
            head,
            target,
            lowered(head.raw_headers),
            scheme="http",
            client=("192.0.2.7", 1),
            server=("192.0.2.1", 2),
            state={"a": 1},
            tls=None,
        )

        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": "/a",
            "raw_path": b"/%61",
            "query_string": b"b",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-camelcase", b"Value")],
            "client": ("192.0.2.7", 1),
            "server": ("192.0.2.1", 2),
            "state": {"a": 1},
            "extensions": {},
        }
        websocket = websocket_scope(scope, ["chat"])
        assert websocket["scheme"] == "ws"
        assert websocket["subprotocols"] == ["chat"]
        assert websocket["extensions"] == {"websocket.http.response": {}}
        assert "method" not in websocket

    def test_share_the_names_of_headers(self) -> None:
        one, two = (lowered([(bytes(bytearray(b"X-Not-Common")), b"")])[0][0] for _ in range(2))
        assert one == b"x-not-common"
        assert one is two


class TestForwarding:
    def apply(self, trusted: tuple[str, ...], client: str | None, *values: bytes) -> object:
        headers = [(b"x-forwarded-for", value) for value in values]
        found, _ = Forwarding(trusted).apply(headers, (client, 9) if client else None, "http")
        return found and found[0]

    def test_believes_nobody_by_default(self) -> None:
        assert not Forwarding(())
        assert self.apply((), "192.0.2.7", b"203.0.113.9") == "192.0.2.7"

    def test_forwarding_takes_the_right_most_address_that_is_not_a_trusted_proxy(self) -> None:
        claims = b"203.0.113.66, 203.0.113.9, 10.0.0.2"
        assert self.apply(("10.0.0.0/8",), "10.0.0.1", claims) == "203.0.113.9"
        assert self.apply(("10.0.0.0/8",), "192.0.2.7", claims) == "192.0.2.7"

    def test_forwarding_reads_repeated_headers_as_one(self) -> None:
        assert self.apply(("10.0.0.0/8",), "10.0.0.1", b"203.0.113.66", b"203.0.113.9,10.0.0.2") == "203.0.113.9"

    def test_forwarding_stops_at_what_is_no_address(self) -> None:
        assert self.apply(("10.0.0.0/8",), "10.0.0.1", b"203.0.113.9, unknown, 10.0.0.2") == "10.0.0.2"

    @pytest.mark.parametrize(
        ("value", "client"),
        [
            (b"203.0.113.9", ("203.0.113.9", 0)),
            (b"203.0.113.9:17085", ("203.0.113.9", 17085)),
            (b"[2001:db8::7]:4711", ("2001:db8::7", 4711)),
            (b"203.0.113.9:17085, 10.0.0.6", ("203.0.113.9", 17085)),
            (b"203.0.113.9:17085, 10.0.0.6:80", ("203.0.113.9", 17085)),
            (b'198.51.100.1, "[2001:db8::7]:1", "10.0.0.6"', ("2001:db8::7", 1)),
            (b"203.0.113.9, , 10.0.0.6,", ("203.0.113.9", 0)),
            (b"203.0.113.9, unknown", ("10.0.0.1", 9)),
            (b"203.0.113.9, _hidden, 10.0.0.6:80", ("10.0.0.6", 80)),
            (b"fe80::1%\x9b31m", ("10.0.0.1", 9)),
            (b"", ("10.0.0.1", 9)),
            (b",,", ("10.0.0.1", 9)),
        ],
    )
    def test_forwarding_reads_a_hop_as_proxies_write_it(self, value: bytes, client: tuple[str, int]) -> None:
        headers = [(b"x-forwarded-for", value)]

        assert Forwarding(("10.0.0.0/8",)).apply(headers, ("10.0.0.1", 9), "http") == (client, "http")

    def test_trusts_the_peers_of_a_unix_socket_if_told_to(self) -> None:
        assert self.apply(("unix",), None, b"203.0.113.9") == "203.0.113.9"
        assert self.apply(("10.0.0.0/8",), None, b"203.0.113.9") is None

    @pytest.mark.parametrize(
        ("value", "scheme"), [(b"https", "https"), (b"http, HTTPS", "https"), (b"wss", "https"), (b"gopher", "http")]
    )
    def test_forwarding_takes_the_scheme_of_the_last_proxy(self, value: bytes, scheme: str) -> None:
        headers = [(b"x-forwarded-proto", value)]
        assert Forwarding(("10.0.0.1",)).apply(headers, ("10.0.0.1", 1), "http")[1] == scheme
        assert Forwarding(("10.0.0.1",)).apply(headers, ("10.0.0.2", 1), "http")[1] == "http"

    def test_a_network_that_is_none_is_an_error(self) -> None:
        with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
            Forwarding(("10.0.0.1/8",))
