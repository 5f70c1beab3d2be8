"""A server for the time of a `with` block, and applications for it."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from protocols.asgi import Application, Event, Receive, Scope, Send
from protocols.http import HttpOptions, HttpServer
from protocols.server import Listener


@asynccontextmanager
async def serving(
    application: Application, *, bind: str = "127.0.0.1:0", tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[HttpServer]:
    """Serves until the block is left; then each connection must have ended."""
    listener = Listener(bind=bind, options=HttpOptions(**options), ssl_context=tls)
    server = HttpServer(application, [listener], state={})
    await server.start()
    try:
        yield server
    finally:
        async with asyncio.timeout(30):
            await server.close()


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Sends back what it receives, as it comes, over HTTP and WebSocket."""
    if scope["type"] == "http":
        headers = [(b"x-method", scope["method"].encode()), (b"x-version", scope["http_version"].encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            await send({"type": "http.response.body", "body": event["body"], "more_body": event["more_body"]})
            if not event["more_body"]:
                return
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            offered = scope["subprotocols"]
            await send({"type": "websocket.accept", "subprotocol": offered[-1] if offered else None})
        elif event.get("text") is not None:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


def certificate(directory: Path) -> ssl.SSLContext:
    """A server context with a certificate of its own for 127.0.0.1; writes cert.pem."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "cert.pem").write_bytes(made.public_bytes(pem))
    (directory / "key.pem").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    return context


class Events:
    """An event-stream application: `publish` reaches each client; `ended` counts those that are gone."""

    def __init__(self) -> None:
        self.sends: list[Send] = []
        self.disconnects: asyncio.Queue[Event] = asyncio.Queue()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
        self.sends.append(send)
        self.disconnects.put_nowait(await receive())

    async def publish(self, data: bytes) -> None:
        for send in self.sends:
            await send({"type": "http.response.body", "body": data, "more_body": True})
