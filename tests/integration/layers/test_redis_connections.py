"""The ways in which the Redis layers connect that need a server of their own: TLS, users of Redis with few rights."""

import asyncio
import datetime
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.layers import LayerUnavailableError
from gateway.layers.pubsub import RedisPubSubChannelLayer
from gateway.layers.redis import RedisChannelLayer
from gateway.layers.url import channel_layers_from_url
from tests.support.ports import free_port
from tests.support.redis import RedisServer

Layer = RedisPubSubChannelLayer | RedisChannelLayer
MakeLayer = Callable[[Any], Layer]


@pytest.fixture(params=[RedisPubSubChannelLayer, RedisChannelLayer])
def layer_class(request: pytest.FixtureRequest) -> type[Layer]:
    chosen: type[Layer] = request.param
    return chosen


@pytest.fixture
async def make_layer(layer_class: type[Layer]) -> AsyncIterator[MakeLayer]:
    """Makes layers for a host."""
    made: list[Layer] = []

    def make(host: Any) -> Layer:
        made.append(layer_class(hosts=[host], prefix="test"))
        return made[-1]

    yield make
    for layer in made:
        await layer.close()


async def a_message_crosses(here: Layer, elsewhere: Layer) -> bool:
    """Whether what one process and its threads send reaches a member in another."""
    got: list[dict[str, Any]] = []
    channel = await here.new_channel()
    here.attach(channel, got.append)
    await here.group_add("group", channel)
    await elsewhere.group_send("group", {"type": "m"})
    await asyncio.to_thread(elsewhere.sync.group_send, "group", {"type": "m"})
    async with asyncio.timeout(60):
        while len(got) < 2:
            await asyncio.sleep(0.01)
    elsewhere.sync.close()  # type: ignore[attr-defined]
    return True


class Tls(NamedTuple):
    server: RedisServer
    port: int
    ca: Path

    @property
    def url(self) -> str:
        return f"rediss://127.0.0.1:{self.port}"


def write_certificates(directory: Path) -> None:
    """ca.pem, and cert.pem and key.pem for 127.0.0.1, issued by it."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name, name = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)]) for text in ("CA", "redis"))

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    constraints = x509.BasicConstraints(ca=True, path_length=None)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    # Python 3.13 asks for these three (VERIFY_X509_STRICT).
    nothing = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    usage = x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **nothing)
    key_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(constraints, critical=True)
        .add_extension(usage, critical=True)
        .add_extension(key_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    cert = (
        builder(name, key.public_key())
        .add_extension(alternative, critical=False)
        .add_extension(issuer_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(ca.public_bytes(pem))
    (directory / "cert.pem").write_bytes(cert.public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
    (directory / "key.pem").write_bytes(private)


@pytest.fixture
def tls_server(tmp_path: Path) -> Iterator[Tls]:
    """A server that also takes TLS, with a certificate of a CA of its own."""
    write_certificates(tmp_path)
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    for option, file in (("cert-file", "cert.pem"), ("key-file", "key.pem"), ("ca-cert-file", "ca.pem")):
        options += [f"--tls-{option}", str(tmp_path / file)]
    server = RedisServer(tmp_path, options=tuple(options))
    server.start()
    yield Tls(server, port, tmp_path / "ca.pem")
    server.stop()


class TestTls:
    async def test_a_server_whose_ca_is_named_is_talked_to(self, tls_server: Tls, make_layer: MakeLayer) -> None:
        as_url = make_layer(f"{tls_server.url}?ssl_ca_certs={tls_server.ca}")
        as_dict = make_layer(
            {"host": "127.0.0.1", "port": tls_server.port, "ssl": True, "ssl_ca_certs": str(tls_server.ca)}
        )

        assert await a_message_crosses(as_url, as_dict)

    async def test_a_server_of_an_unknown_ca_is_not(self, tls_server: Tls, make_layer: MakeLayer) -> None:
        layer = make_layer(tls_server.url)

        with pytest.raises(LayerUnavailableError, match=r"(?i)certificate"):
            await layer.check()

    async def test_one_url_configures_tls_to_redis(self, tls_server: Tls) -> None:
        url = f"{tls_server.url}?ssl_ca_certs={tls_server.ca}"
        config = channel_layers_from_url(url)["default"]["CONFIG"]
        here, elsewhere = RedisPubSubChannelLayer(**config), RedisPubSubChannelLayer(**config)

        assert await a_message_crosses(here, elsewhere)

        await here.close()
        await elsewhere.close()


class TestUsersOfRedis:
    @pytest.fixture
    def password(self, own_redis_server: RedisServer) -> str:
        """That of the user "gateway", who may do what the layers need and no more; nobody else may do anything."""
        password = uuid.uuid4().hex
        with own_redis_server.client() as client:
            # As docs/channel-layers.md has it.
            rules = "~test* &test* -@all +@connection +@pubsub +@scripting +@sortedset +@list +time +pexpire +expire"
            client.execute_command("ACL", "SETUSER", "gateway", "on", f">{password}", *rules.split())
            client.execute_command("ACL", "SETUSER", "default", "off")
        return password

    async def test_a_user_with_a_password_and_only_the_rights_that_are_needed(
        self, own_redis_server: RedisServer, make_layer: MakeLayer, password: str
    ) -> None:
        as_url = make_layer(f"redis://gateway:{password}@127.0.0.1:{own_redis_server.port}")
        as_dict = make_layer({"path": str(own_redis_server.unix_socket), "username": "gateway", "password": password})

        assert await a_message_crosses(as_url, as_dict)

    async def test_a_wrong_password_is_an_error_that_does_not_tell_it(
        self, own_redis_server: RedisServer, make_layer: MakeLayer, password: str
    ) -> None:
        layer = make_layer(f"redis://gateway:wrong-{password}@127.0.0.1:{own_redis_server.port}")

        with pytest.raises(LayerUnavailableError, match=r"(?i)password") as raised:
            await layer.check()

        assert password not in str(raised.value)
