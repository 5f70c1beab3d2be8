"""The way into a listener, on asyncio's loop and on uvloop: PROXY headers, TLS handshakes, peers that never finish."""

import asyncio
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from protocols import metrics
from protocols.http import HttpOptions, HttpServer
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener, ProtocolServer
from protocols.tls import TlsOptions
from tests.integration.http.serving import echo
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.raw_client import RawClient
from tests.support.authority import Authority
from tests.support.waiting import until

DEADLINE_S = 60
V1 = b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 1883\r\n"
V2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 1, 192, 0, 2, 2]) + b"\xdc\x04\x07\x5b"
HERE = ("127.0.0.0/8",)

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs the coroutine of a test on one of the two loops."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run_it(main: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(main, DEADLINE_S))

    return run_it


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def between(authority: Authority) -> Authority:
    """An authority that the server does not know: who has a certificate of it sends that of it too."""
    return authority.subordinate("between")


@pytest.fixture(scope="module")
def tls(authority: Authority) -> TlsOptions:
    certificate, key = authority.issue("server")
    return TlsOptions(certfile=certificate, keyfile=key, client_ca=authority.ca, client_certificate="optional")


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    """What a client is to have."""
    return ssl.create_default_context(cafile=str(authority.ca))


@asynccontextmanager
async def mqtt(application: AcceptEverything, bind: str = "127.0.0.1:0", **listener: Any) -> AsyncIterator[MqttServer]:
    options = MqttOptions(allow_anonymous=True)
    async with served(MqttServer(application, [Listener(bind=bind, options=options, **listener)], state={})) as server:
        yield server  # type: ignore[misc]


@asynccontextmanager
async def served(server: ProtocolServer) -> AsyncIterator[ProtocolServer]:
    await server.start()
    try:
        yield server
    finally:
        await server.close()


def port(server: ProtocolServer) -> int:
    return int(server.addresses[0].rpartition(":")[2])


async def opened(server: ProtocolServer, first: bytes = b"", **options: Any) -> RawClient:
    """A connection that has sent these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server), **options)
    writer.write(first)
    return RawClient(reader, writer, 5)


def refused(reason: str) -> float:
    """How many were refused for this reason so far."""
    return metrics.connections_refused.labels(reason)._value.get()  # type: ignore[no-any-return]


class TestProxies:
    @pytest.mark.parametrize("header", [V1, V2])
    def test_the_client_is_who_the_proxy_says(self, run: Run, header: bytes) -> None:
        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, proxy_protocol=HERE) as server:
                client = await opened(server, header)
                assert (await client.connect("c")).reason_code == 0
                await client.disconnect()

            assert application.scopes[0]["client"] == ("192.0.2.1", 56_324)
            assert application.scopes[0]["server"] == ("192.0.2.2", 1883)

        run(main())

    def test_the_client_is_who_the_proxy_says_over_http_too_and_through_a_unix_socket(
        self, run: Run, tmp_path: Path
    ) -> None:
        async def main() -> None:
            seen: list[Any] = []

            async def application(scope: Any, receive: Any, send: Any) -> None:
                seen.append((scope["client"], scope["server"]))
                await echo(scope, receive, send)

            listener = Listener(bind=f"unix:{tmp_path}/http", options=HttpOptions(), proxy_protocol=("unix",))
            async with served(HttpServer(application, [listener], state={})):
                reader, writer = await asyncio.open_unix_connection(tmp_path / "http")
                writer.write(V2 + b"GET / HTTP/1.0\r\n\r\n")
                assert (await reader.read()).startswith(b"HTTP/1.1 200")
                writer.close()

            assert seen == [(("192.0.2.1", 56_324), ("192.0.2.2", 1883))]

        run(main())

    def test_a_header_that_comes_byte_by_byte_and_with_all_that_follows(self, run: Run) -> None:
        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, proxy_protocol=HERE) as server:
                client = await opened(server)
                client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for byte in V1[:-1]:
                    client.writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                client.writer.write(V1[-1:] + b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02me\xc0\x00")
                await client.receive()
                await client.expect(b"\xd0\x00")
                client.abort()

            assert application.scopes[0]["client"] == ("192.0.2.1", 56_324)

        run(main())

    def test_a_health_check_of_the_proxy_keeps_its_own_address(self, run: Run) -> None:
        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, proxy_protocol=HERE) as server:
                client = await opened(server, V2[:12] + b"\x20\x00\x00\x00")
                await client.connect("c")
                await client.disconnect()

            assert application.scopes[0]["client"][0] == "127.0.0.1"

        run(main())

    def test_tls_begins_after_the_header(self, run: Run, tls: TlsOptions, trusting: ssl.SSLContext) -> None:
        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, proxy_protocol=HERE, ssl_context=tls.context()) as server:
                plain = socket.create_connection(("127.0.0.1", port(server)), DEADLINE_S)
                plain.sendall(V2)
                reader, writer = await asyncio.open_connection(sock=plain, ssl=trusting, server_hostname="localhost")
                client = RawClient(reader, writer, 5)
                assert (await client.connect("c")).reason_code == 0
                client.abort()

            assert application.scopes[0]["client"] == ("192.0.2.1", 56_324)
            assert application.scopes[0]["extensions"]["tls"]["tls_version"] == 0x0304

        run(main())

    @pytest.mark.parametrize(
        ("trusted", "sent", "reason"),
        [
            (("192.0.2.0/24",), V1, "proxy_untrusted"),
            (("unix",), V1, "proxy_untrusted"),
            (HERE, b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x02me", "proxy_header"),
            (HERE, V1.replace(b"TCP4", b"TCP9"), "proxy_header"),
            (HERE, V2[:13] + b"\x12" + V2[14:], "proxy_header"),
        ],
    )
    def test_who_is_no_proxy_or_sends_no_header_is_closed_and_counted(
        self, run: Run, caplog: pytest.LogCaptureFixture, trusted: tuple[str, ...], sent: bytes, reason: str
    ) -> None:
        caplog.set_level(logging.INFO, "gateway.listeners")

        async def main() -> None:
            application, before = AcceptEverything(), refused(reason)
            async with mqtt(application, proxy_protocol=trusted) as server:
                client = await opened(server, sent)
                await client.expect_end()

            assert application.scopes == []
            assert refused(reason) == before + 1
            assert "refused 127.0.0.1:" in caplog.text

        run(main())


class TestHandshakes:
    @pytest.mark.parametrize("kind", ["tls", "proxy"])
    def test_who_never_finishes_is_cut_in_time(self, run: Run, tls: TlsOptions, kind: str) -> None:
        """Slow-loris, before the protocol: a byte now and then is no progress."""
        options: dict[str, Any] = {"ssl_context": tls.context()} if kind == "tls" else {"proxy_protocol": HERE}

        async def main() -> None:
            before = refused("timeout")
            async with mqtt(AcceptEverything(), handshake_timeout_s=0.3, **options) as server:
                client = await opened(server, b"\x16\x03\x01\x02\x00\x01" if kind == "tls" else b"PROXY ")
                await client.expect_end()

            assert refused("timeout") == before + 1

        run(main())

    def test_one_more_than_may_be_under_way_is_closed_and_room_is_made_again(
        self, run: Run, tls: TlsOptions, trusting: ssl.SSLContext
    ) -> None:
        async def main() -> None:
            before = refused("too_many_handshakes")
            async with mqtt(AcceptEverything(), ssl_context=tls.context(), max_handshakes=2) as server:
                waiting = [await opened(server), await opened(server)]
                (handshaking,) = [listening._handshaking for listening in server._servers]
                await until(lambda: len(handshaking._under_way) == 2, "two handshakes")
                await (await opened(server)).expect_end()
                assert refused("too_many_handshakes") == before + 1

                waiting[0].abort()
                await until(lambda: len(handshaking._under_way) == 1, "one to leave")
                client = await opened(server, ssl=trusting)
                assert (await client.connect("c")).reason_code == 0
                client.abort()
                waiting[1].abort()

        run(main())

    def test_what_is_no_tls_is_closed_and_counted(self, run: Run, tls: TlsOptions) -> None:
        async def main() -> None:
            application = AcceptEverything()
            before = {reason: refused(reason) for reason in ("http_request", "lost")}
            async with mqtt(application, ssl_context=tls.context()) as server:
                await (await opened(server, b"GET / HTTP/1.1\r\n\r\n")).expect_end()
                (await opened(server)).abort()
                await until(lambda: refused("lost") == before["lost"] + 1, "the one that left")

            assert refused("http_request") == before["http_request"] + 1
            assert application.scopes == []

        run(main())

    def test_a_server_that_closes_leaves_none_behind(self, run: Run, tls: TlsOptions) -> None:
        async def main() -> None:
            async with mqtt(AcceptEverything(), ssl_context=tls.context()) as server:
                client = await opened(server)
                (handshaking,) = [listening._handshaking for listening in server._servers]
                await until(lambda: handshaking._under_way, "the handshake to begin")
            await client.expect_end()

        run(main())


class TestCertificates:
    def test_a_scope_tells_what_the_handshake_has_found(
        self, run: Run, tls: TlsOptions, trusting: ssl.SSLContext, authority: Authority
    ) -> None:
        certificate, key = authority.issue("client", "/O=works/CN=sensor")
        trusting.load_cert_chain(certificate, key)

        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, ssl_context=tls.context()) as server:
                client = await opened(server, ssl=trusting)
                await client.connect("c")
                client.abort()
            facts = application.scopes[0]["extensions"]["tls"]
            assert application.scopes[0]["scheme"] == "mqtts"
            assert set(facts["client_cert_name"].split(",")) == {"CN=sensor", "O=works"}
            assert facts["client_cert_chain"][0] == certificate.read_text()
            assert facts["server_cert"] == tls.certfile.read_text()
            assert facts["client_cert_error"] is None
            assert facts["tls_version"] == 0x0304
            assert facts["cipher_suite"] in (0x1301, 0x1302, 0x1303)

        run(main())

    def test_a_scope_tells_what_was_sent_and_verified_of_a_clients_chain(
        self, run: Run, tls: TlsOptions, trusting: ssl.SSLContext, between: Authority, tmp_path: Path
    ) -> None:
        """Each signs the one before (ASGI TLS extension); Python tells of no more than the first before 3.13."""
        certificate, key = between.issue("client")
        chain = [certificate.read_text(), between.ca.read_text()]
        (tmp_path / "chain.pem").write_text("".join(chain))
        trusting.load_cert_chain(tmp_path / "chain.pem", key)

        async def main() -> None:
            application = AcceptEverything()
            async with mqtt(application, ssl_context=tls.context()) as server:
                client = await opened(server, ssl=trusting)
                await client.connect("c")
                client.abort()
            told = application.scopes[0]["extensions"]["tls"]["client_cert_chain"]
            assert told == (chain if sys.version_info >= (3, 13) else chain[:1])

        run(main())

    def test_who_was_revoked_does_not_resume_a_session(
        self, run: Run, trusting: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A resumed session shows no certificate again; the tickets of a context end with it."""
        caplog.set_level(logging.INFO, logger="gateway.listeners")
        mine = Authority(tmp_path / "mine")
        server_files, (certificate, key) = mine.issue("server"), mine.issue("client")
        options = TlsOptions(certfile=server_files[0], keyfile=server_files[1], client_ca=mine.ca, crl=mine.revoke())
        context = options.context()
        before, cut = refused("certificate_verify_failed"), metrics.tls_revoked._value.get()

        client = ssl.create_default_context(cafile=str(mine.ca))
        client.maximum_version = ssl.TLSVersion.TLSv1_2  # in which a session is there when the handshake is
        client.load_cert_chain(certificate, key)

        def handshake(address: tuple[str, int], session: ssl.SSLSession | None = None) -> tuple[Any, bool]:
            with (
                socket.create_connection(address, DEADLINE_S) as plain,
                client.wrap_socket(plain, server_hostname="localhost", session=session) as wrapped,
            ):
                wrapped.sendall(b"\xc0\x00")  # no CONNECT: answered by the end
                wrapped.recv(10)
                return wrapped.session, wrapped.session_reused is True

        async def main() -> None:
            async with mqtt(AcceptEverything(), ssl_context=context) as server:
                address = ("127.0.0.1", port(server))
                session, _ = await asyncio.to_thread(handshake, address)
                _, resumed = await asyncio.to_thread(handshake, address, session)
                assert resumed
                await until(lambda: not server._endpoints.open, "the end of both")
                mine.revoke(certificate)
                assert context.reload()
                context.announce()

                with pytest.raises(OSError, match=r"revoked|reset|EOF"):
                    await asyncio.to_thread(handshake, address, session)

            assert refused("certificate_verify_failed") == before + 1
            assert "no TLS: certificate revoked" in caplog.text
            assert metrics.tls_revoked._value.get() == cut  # who is gone is not cut

        run(main())


class TestDeadPeers:
    @pytest.mark.parametrize("encrypted", [False, True])
    def test_tcp_itself_finds_out(self, run: Run, tls: TlsOptions, trusting: ssl.SSLContext, encrypted: bool) -> None:
        async def main() -> None:
            context = tls.context() if encrypted else None
            async with mqtt(AcceptEverything(), ssl_context=context, dead_peer_timeout_s=42) as server:
                client = await opened(server, ssl=trusting if encrypted else None)
                await client.connect("c")
                (endpoint,) = server._endpoints.open
                accepted = endpoint.transport.get_extra_info("socket")
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                for name, value in (("KEEPIDLE", 21), ("KEEPINTVL", 7), ("KEEPCNT", 3), ("USER_TIMEOUT", 42_000)):
                    assert accepted.getsockopt(socket.IPPROTO_TCP, getattr(socket, f"TCP_{name}")) == value
                client.abort()

        run(main())
