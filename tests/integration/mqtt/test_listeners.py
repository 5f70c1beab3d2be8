"""Where the server listens: TLS, a Unix socket, and a client that does not read what it is sent."""

import asyncio
import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from protocols.mqtt.codec.packets import PubAck, Publish
from protocols.mqtt.options import MqttOptions
from protocols.mqtt.server import MqttServer
from protocols.server import Listener
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.conftest import as_address
from tests.integration.mqtt.fixture_types import OpenRaw
from tests.integration.mqtt.raw_client import RawClient
from tests.support.waiting import until

OPTIONS = MqttOptions(allow_anonymous=True)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1, made for this test."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fieldgate test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_a_client_connects_over_tls(certificate: Path, application: AcceptEverything) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate)
    server = MqttServer(
        application, [Listener(bind="127.0.0.1:0", options=OPTIONS, ssl_context=server_context)], state={}
    )
    await server.start()
    client_context = ssl.create_default_context(cafile=str(certificate))

    reader, writer = await asyncio.open_connection(*as_address(server.addresses[0]), ssl=client_context)
    client = RawClient(reader, writer, 4)
    await client.connect("client")
    client.send(Publish(topic="a", qos=1, packet_id=1))
    assert await client.receive() == PubAck(1)

    (scope,) = application.scopes
    assert scope["scheme"] == "mqtts"
    assert "tls" in scope["extensions"]
    await client.disconnect()
    await server.close()


async def test_a_client_connects_through_a_unix_socket(tmp_path: Path, application: AcceptEverything) -> None:
    path = tmp_path / "mqtt.sock"
    server = MqttServer(application, [Listener(bind=f"unix:{path}", options=OPTIONS)], state={})
    await server.start()

    client = RawClient(*await asyncio.open_unix_connection(path), 4)
    await client.connect("client")
    await client.expect_nothing_more()

    (scope,) = application.scopes
    assert scope["client"] is None
    assert scope["server"] == (str(path), None)
    await client.disconnect()
    await server.close()


async def test_listeners_share_one_broker(application: AcceptEverything, open_raw: OpenRaw) -> None:
    listeners = [Listener(bind="127.0.0.1:0", options=OPTIONS) for _ in range(2)]
    server = MqttServer(application, listeners, state={})
    await server.start()
    first, second = [await open_raw(to=as_address(text)) for text in server.addresses]
    await first.connect("first")
    await second.connect("second")
    await first.subscribe("a")

    second.send(Publish(topic="a"))

    assert await first.receive() == Publish(topic="a")
    await server.close()


async def test_a_subscriber_that_does_not_read_holds_up_nobody_and_loses_the_newest(
    raw: OpenRaw, application: AcceptEverything
) -> None:
    """Its queue is bounded: what fits comes when it reads, in order; the publisher never waits."""
    stuck, witness, publisher = await raw("stuck"), await raw("witness"), await raw("publisher")
    for client in (stuck, witness):
        await client.subscribe("a")
    stuck.reader._transport.pause_reading()  # type: ignore[attr-defined]

    for index in range(400):
        packet = Publish(topic="a", payload=index.to_bytes(4, "big") + bytes(65_536))
        publisher.send(packet)
        assert await witness.receive() == packet
    stuck.reader._transport.resume_reading()  # type: ignore[attr-defined]
    stuck.send(b"\xc0\x00")

    received = []
    while isinstance(packet := await stuck.receive(), Publish):
        received.append(int.from_bytes(packet.payload[:4], "big"))
    assert received == list(range(len(received)))
    assert 0 < len(received) < 400
    await until(lambda: len(application.seen("mqtt.publish", "publisher")) == 400, "every publish")
