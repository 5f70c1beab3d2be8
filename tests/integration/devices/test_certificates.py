"""Devices with client certificates, by mosquitto_pub, curl and openssl, at a gateway with TLS on both listeners."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import ConnAck, Connect, Disconnect, Packet
from tests.integration.devices.conftest import Gateway
from tests.support.authority import Authority, fingerprint
from tests.support.fleet import FleetDevice
from tests.support.serving import Serving

DEADLINE_S = 60
TELEMETRY = "v1/devices/me/telemetry"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.revoke()
    for number, certificate in enumerate(made.issue("server")):
        shutil.copy(certificate, made.directory / ("tls.pem", "tls.key")[number])
    return made


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "gateway.toml").write_text(
        "".join(
            f"""
            [[listeners]]
            protocol = "{protocol}"
            bind = "127.0.0.1:0"
            [listeners.tls]
            certfile = "{authority.directory}/tls.pem"
            keyfile = "{authority.directory}/tls.key"
            client_ca = "{authority.ca}"
            client_certificate = "{policy}"
            crl = "{authority.crl}"
            """
            for protocol, policy in (("http", "optional"), ("mqtt", "required"))
        )
    )
    serving = Serving(directory, "--config", "gateway.toml")
    try:
        yield Tls(serving.ready())
    finally:
        serving.kill()


class Tls(Gateway):
    """The gateway at its encrypted ports."""

    def __init__(self, serving: Serving) -> None:
        self.serving = serving
        self.host = "127.0.0.1"
        self.mqtt_port = serving.port("mqtts")
        self.http_port = serving.port("https")
        self.url = f"https://127.0.0.1:{self.http_port}"
        self._database = serving.directory / "var" / "gateway.sqlite3"


@pytest.fixture
def device(devices: Iterator[FleetDevice]) -> FleetDevice:
    return next(devices)


class Program:
    """The clients that people have, with a certificate or without."""

    def __init__(self, gateway: Gateway, authority: Authority) -> None:
        self._gateway = gateway
        self._ca = authority.ca

    def mosquitto_pub(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        where = ("-h", "127.0.0.1", "-p", str(self._gateway.mqtt_port), "--cafile", self._ca)
        return self._run("mosquitto_pub", *where, "-t", TELEMETRY, "-q", "1", *options)

    def curl(self, path: str, *options: str | Path) -> int:
        """The status of a POST of one reading."""
        shown = ("--silent", "--show-error", "--output", os.devnull, "--write-out", "%{http_code}")
        done = self._run(
            "curl", *shown, "--cacert", self._ca, "--data", '{"a": 1}', *options, f"{self._gateway.url}{path}"
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    def s_client(self, *options: str | Path) -> str:
        where = ("-connect", f"127.0.0.1:{self._gateway.http_port}", "-CAfile", self._ca)
        done = self._run("openssl", "s_client", *where, *options)
        return done.stdout + done.stderr

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )


@pytest.fixture
def program(gateway: Gateway, authority: Authority) -> Program:
    return Program(gateway, authority)


@pytest.fixture
def connect(gateway: Gateway, authority: Authority) -> Iterator[Callable[..., "MqttClient"]]:
    opened: list[MqttClient] = []

    def open_one(certificate: Path, key: Path) -> MqttClient:
        opened.append(MqttClient(gateway.mqtt_port, authority.ca, certificate, key))
        return opened[-1]

    yield open_one
    for client in opened:
        client.close()


class MqttClient:
    """An MQTT 5 client that is connected by a certificate, until `ended`."""

    def __init__(self, port: int, ca: Path, certificate: Path, key: Path) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(certificate, key)
        self._socket = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port), DEADLINE_S), server_hostname="127.0.0.1"
        )
        self.server_certificate = self._socket.getpeercert(binary_form=True)
        self._decoder = Decoder(max_packet_bytes=1 << 20, version=5)
        self._socket.sendall(encode(Connect(version=5, client_id="c"), 5))
        (connack,) = self.receive()
        assert isinstance(connack, ConnAck)
        self.reason_code = connack.reason_code

    def receive(self) -> list[Packet]:
        """The packets of the next record."""
        return list(self._decoder.decode(self._socket.recv(65_536)))

    def pings(self) -> bool:
        """Whether the connection is there."""
        self._socket.sendall(b"\xc0\x00")
        return len(self.receive()) == 1

    def ended(self) -> int:
        """Waits for the DISCONNECT; its reason code."""
        (packet,) = self.receive()
        assert isinstance(packet, Disconnect), packet
        return packet.reason_code

    def close(self) -> None:
        self._socket.close()


def values(gateway: Gateway, device: FleetDevice) -> list[object]:
    return [value for _, _, value in gateway.stored(device)]


class TestLogin:
    @pytest.mark.parametrize("kind", ["fingerprint", "san", "cn", "certificate"])
    def test_a_device_is_known_by_a_name_in_its_certificate(
        self, gateway: Gateway, authority: Authority, program: Program, device: FleetDevice, kind: str
    ) -> None:
        name = f"sensor-{kind}"
        certificate, key = authority.issue(name, f"/O=works/CN={name}", f"DNS:{name}.example.org")
        value = {"fingerprint": fingerprint(certificate), "san": f"DNS:{name}.example.org", "cn": name}
        gateway.serving.command("device", "trust", device.name, f"--{kind}", value.get(kind, str(certificate)))

        done = program.mosquitto_pub("--cert", certificate, "--key", key, "-m", '{"a": 1}')
        assert done.returncode == 0, done.stderr
        assert program.curl("/api/v1/telemetry", "--cert", certificate, "--key", key) == 200

        assert values(gateway, device) == [1.0, 1.0]

    def test_a_genuine_certificate_of_no_device_lets_nobody_in(
        self, gateway: Gateway, authority: Authority, program: Program
    ) -> None:
        certificate, key = authority.issue("stranger")

        refused = program.mosquitto_pub("--cert", certificate, "--key", key, "-m", '{"a": 1}')

        assert "not authorised" in refused.stderr.lower()
        assert program.curl("/api/v1/telemetry", "--cert", certificate, "--key", key) == 401

    def test_a_token_goes_with_it_unless_it_is_anothers(
        self, gateway: Gateway, authority: Authority, program: Program, devices: Iterator[FleetDevice]
    ) -> None:
        mine, other = next(devices), next(devices)
        certificate, key = authority.issue("with-token")
        path = "/api/v1/telemetry"
        tokens = {name.name: ("--header", f"Authorization: Bearer {name.token}") for name in (mine, other)}
        assert program.curl(path, *tokens[mine.name], "--cert", certificate, "--key", key) == 200

        gateway.serving.command("device", "trust", mine.name, "--cn", "with-token")
        deadline = time.monotonic() + DEADLINE_S  # for some seconds it is remembered that the certificate is nobody's
        while program.curl(path, *tokens[other.name], "--cert", certificate, "--key", key) != 401:
            assert time.monotonic() < deadline
        assert program.curl(path, *tokens[mine.name], "--cert", certificate, "--key", key) == 200
        assert program.curl(path, *tokens[other.name]) == 200

    @pytest.mark.parametrize("kind", ["none", "of another authority", "revoked"])
    def test_tls_itself_refuses_who_has_no_good_certificate(
        self, gateway: Gateway, authority: Authority, program: Program, tmp_path: Path, kind: str
    ) -> None:
        options: list[str | Path] = []
        if kind != "none":
            issuer = authority if kind == "revoked" else Authority(tmp_path / "other")
            certificate, key = issuer.issue(f"bad-{kind.replace(' ', '-')}")
            options = ["--cert", certificate, "--key", key]
            if kind == "revoked":
                authority.revoke(certificate)
                reload(gateway)

        done = program.mosquitto_pub("-u", "whoever", "-m", '{"a": 1}', *options)

        assert done.returncode != 0
        assert "not authorised" not in done.stderr.lower()  # it did not come so far
        deadline = time.monotonic() + DEADLINE_S
        while not any("refused 127.0.0.1:" in line and "no TLS" in line for line in gateway.serving.log):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert "gateway_connections_refused_total" in metrics(program, gateway)

    def test_old_versions_of_tls_are_not_spoken(self, program: Program) -> None:
        assert "Cipher is (NONE)" in program.s_client("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0")
        assert "TLSv1.2, Cipher is ECDHE" in program.s_client("-tls1_2")
        assert "TLSv1.3, Cipher is TLS" in program.s_client("-tls1_3")


class TestRevocation:
    def test_a_name_that_is_revoked_ends_the_connection(
        self, gateway: Gateway, authority: Authority, device: FleetDevice, connect: Callable[..., MqttClient]
    ) -> None:
        files = authority.issue("fired")
        gateway.serving.command("device", "trust", device.name, "--cn", "fired")
        client = connect(*files)
        assert client.reason_code == 0

        gateway.serving.command("device", "distrust", device.name, "fired")

        assert client.ended() == 0x87
        assert connect(*files).reason_code == 0x86
        assert "cn fired, since" in gateway.serving.command("device", "show", device.name).stdout

    def test_a_certificate_on_a_new_list_ends_the_connection_and_no_other(
        self, gateway: Gateway, authority: Authority, devices: Iterator[FleetDevice], connect: Callable[..., MqttClient]
    ) -> None:
        clients = []
        for name in ("stolen", "kept"):
            files = authority.issue(name)
            gateway.serving.command("device", "trust", next(devices).name, "--cn", name)
            clients.append(connect(*files))
        assert [client.reason_code for client in clients] == [0, 0]

        authority.revoke(authority.directory / "stolen.pem")
        reload(gateway)

        assert clients[0].ended() == 0x87
        assert clients[1].pings()


class TestRenewal:
    def test_a_new_certificate_is_for_new_connections_and_old_ones_go_on(
        self, gateway: Gateway, authority: Authority, device: FleetDevice, connect: Callable[..., MqttClient]
    ) -> None:
        """Noticed by itself: nobody sends a signal."""
        files = authority.issue("steady")
        gateway.serving.command("device", "trust", device.name, "--cn", "steady")
        before = connect(*files)
        install(authority, *authority.issue("renewed"))

        deadline = time.monotonic() + DEADLINE_S
        while connect(*files).server_certificate == before.server_certificate:
            assert time.monotonic() < deadline
            time.sleep(0.2)

        assert before.pings()

    def test_one_that_is_broken_changes_nothing(
        self, gateway: Gateway, authority: Authority, program: Program, device: FleetDevice
    ) -> None:
        good = (authority.directory / "tls.pem").read_bytes()
        (authority.directory / "tls.pem").write_text("-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        try:
            reload(gateway, "cannot be used, those loaded before stay in use")

            assert program.curl(f"/api/v1/{device.token}/telemetry") == 200
            assert 'gateway_tls_reloads_total{result="failed"}' in metrics(program, gateway)
        finally:
            (authority.directory / "tls.pem").write_bytes(good)
            reload(gateway)


def install(authority: Authority, certificate: Path, key: Path) -> None:
    """Puts a certificate and its key in place as most programs do it: one, then the other."""
    shutil.copy(certificate, authority.directory / "tls.pem")
    shutil.copy(key, authority.directory / "tls.key")


def reload(gateway: Gateway, expected: str = "again, for new connections") -> None:
    """Has the gateway read its certificates, of two listeners, and waits until it says so."""
    lines = gateway.serving.log
    start = len(lines)
    gateway.serving.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + DEADLINE_S
    while sum(expected in line for line in lines[start:]) < 2:
        assert time.monotonic() < deadline, lines[start:]
        time.sleep(0.02)


def metrics(program: Program, gateway: Gateway) -> str:
    done = program._run("curl", "--silent", "--insecure", f"{gateway.url}/metrics")
    assert "gateway_tls_certificate_expires_seconds{" in done.stdout
    return done.stdout
