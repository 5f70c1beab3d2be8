"""`gateway serve`, as whoever starts and stops it sees it."""

import http.cookiejar
import json
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as connect_websocket

from tests.support.postgres import PostgresServer
from tests.support.serving import Serving, clean_environment
from tests.support.waiting import wait_until

Serve: TypeAlias = Callable[..., Serving]


def get(url: str) -> tuple[int, str]:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.status, response.read().decode()


def modes_in(directory: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in directory.iterdir()}


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, or the name of one to be made."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'own.sqlite3'}"
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return server.url(server.new_database())


class TestFirstStart:
    def test_the_first_start_prints_once_where_to_log_in_with_which_password_and_what_to_do_next(
        self, serve: Serve
    ) -> None:
        first = serve().ready()
        assert first.stop() == 0

        assert f"dashboard   http://127.0.0.1:{first.port('http')}/" in first.output
        assert re.search(r"user +admin\n +password +\S{16}\n", first.output)
        assert f"mosquitto_pub -h 127.0.0.1 -p {first.port('mqtt')} -u $TOKEN" in first.output
        assert f"http://127.0.0.1:{first.port('http')}/api/v1/$TOKEN/telemetry" in first.output

        second = serve().ready()
        assert second.stop() == 0
        assert second.output == ""

    def test_the_password_logs_in(self, serve: Serve) -> None:
        serving = serve().ready()
        password = wait_until(lambda: re.search(r"password +(\S{16})\n", serving.output))[1]

        assert log_in(serving.url, "admin", password)
        assert not log_in(serving.url, "admin", "another")

    def test_the_printed_lines_send_a_first_message(self, serve: Serve) -> None:
        serving = serve().ready()
        wait_until(lambda: "curl" in serving.output)
        lines = [line.strip() for line in serving.output.splitlines()]
        script = [line for line in lines if line.startswith(("TOKEN=", "mosquitto_pub ", "curl "))]
        assert len(script) == 3

        done = subprocess.run(
            ["bash", "-euxc", "\n".join(script).replace("curl ", "curl --fail ")],
            cwd=serving.directory,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

        assert done.returncode == 0, done.stderr

    def test_what_is_generated_is_for_its_owner_alone(self, serve: Serve) -> None:
        serving = serve().ready()

        assert (serving.directory / "var").stat().st_mode & 0o777 == 0o700
        assert modes_in(serving.directory / "var") == {0o600}

    def test_what_is_generated_in_a_directory_open_to_others_is_for_its_owner_alone_and_that_is_said(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        (tmp_path / "var").mkdir()
        (tmp_path / "var").chmod(0o755)
        serving = serve().ready()

        assert modes_in(tmp_path / "var") == {0o600}
        assert {"gateway.sqlite3", "gateway.sqlite3-wal", "mqtt.sqlite3", "secret_key", "control"} <= {
            file.name for file in (tmp_path / "var").iterdir()
        }
        assert "data_dir: var can be read by other users; chmod 700 var" in "".join(serving.log)

    def test_the_first_start_ends_with_what_check_finds_and_the_address_to_open(self, serve: Serve) -> None:
        serving = serve("--set", "listeners.1.allow_anonymous=true", "--set", "server.allowed_hosts=*").ready()
        said = "".join(serving.log)

        assert "warning (security): server.allowed_hosts" in said
        assert f"pages: http://127.0.0.1:{serving.port('http')}/" in said
        assert said.index("server.allowed_hosts") < said.index("pages: ") < said.index("ready: ")


class TestTwoGatewaysOnAHost:
    def test_a_login_at_one_ends_none_at_the_other_and_outlives_a_restart(self, serve: Serve, tmp_path: Path) -> None:
        cookies = http.cookiejar.CookieJar()
        first = serve("--set", f"data_dir={tmp_path / 'first'}").ready()
        second = serve("--set", f"data_dir={tmp_path / 'second'}").ready()
        for serving in (first, second):
            password = wait_until(lambda serving=serving: re.search(r"password +(\S{16})\n", serving.output))[1]
            assert log_in(serving.url, "admin", password, cookies)
        assert is_logged_in(first.url, cookies)
        assert is_logged_in(second.url, cookies)

        assert first.stop() == 0
        again = serve("--set", f"data_dir={tmp_path / 'first'}").ready()

        assert is_logged_in(again.url, cookies)


def is_logged_in(url: str, cookies: http.cookiejar.CookieJar) -> bool:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    with opener.open(f"{url}/admin/", timeout=30) as response:
        return bool(response.url == f"{url}/admin/")


class TestADatabaseOfALaterVersion:
    def test_a_database_of_a_later_version_is_refused_at_start(self, serve: Serve, database_url: str) -> None:
        first = serve("--set", f"database.url={database_url}").ready()
        first.command(
            "--set",
            f"database.url={database_url}",
            "manage",
            "shell",
            "-v0",
            "-c",
            "from django.db import connection as c; from django.db.migrations.recorder import MigrationRecorder as R;"
            "R(c).record_applied('gateway_devices', '9999_later'); R(c).record_applied('gone', '0001_initial')",
        )
        assert first.stop() == 0

        second = serve("--set", f"database.url={database_url}")

        assert second.ended() == 1
        (line,) = second.log
        assert (
            "migrated by a later version, this one does not know gateway_devices.9999_later; run that version" in line
        )


class TestServing:
    def test_a_gateway_says_that_it_lives_that_it_is_ready_and_what_it_counts(self, serve: Serve) -> None:
        serving = serve().ready()

        assert get(f"{serving.url}/healthz") == (200, "ok\n")
        checks = ("database", "readings", "connections", "server", "mqtt sessions", "layer")
        assert json.loads(get(f"{serving.url}/readyz")[1]) == dict.fromkeys(checks, "ok")
        assert "gateway_layer_delivered_total" in get(f"{serving.url}/metrics")[1]

    def test_a_gateway_serves_the_static_files_of_the_admin(self, serve: Serve) -> None:
        status, body = get(f"{serve().ready().url}/static/admin/css/base.css")

        assert status == 200
        assert "body" in body

    def test_a_websocket_at_an_address_that_there_is_not_is_refused_and_no_news(self, serve: Serve) -> None:
        serving = serve().ready()

        with pytest.raises(InvalidStatus) as refused, connect_websocket(f"{serving.url.replace('http', 'ws')}/nowhere"):
            pass

        assert refused.value.response.status_code == 404
        assert serving.stop() == 0
        assert "Traceback" not in "".join(serving.log)

    def test_a_gateway_logs_json_if_asked_to(self, serve: Serve) -> None:
        serving = serve("--set", "log.format=json").ready()

        assert json.loads(serving.log[-1])["event"].startswith("ready: http://")


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_with_0_and_frees_the_ports(self, serve: Serve, number: signal.Signals) -> None:
        serving = serve().ready()

        assert serving.stop(number) == 0

        assert "stopped" in serving.log[-1]
        for scheme in ("http", "mqtt"):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", serving.port(scheme)))

    def test_a_websocket_is_closed_with_1012_service_restart(self, serve: Serve) -> None:
        serving = serve().ready()
        token = serving.command("device", "add", "one").stdout.strip()
        headers = {"Authorization": f"Bearer {token}"}

        with connect_websocket(f"{serving.url.replace('http', 'ws')}/ws/device/", additional_headers=headers) as device:
            assert serving.stop() == 0
            with pytest.raises(ConnectionClosed) as closed:
                device.recv(timeout=30)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012

    def test_an_mqtt_5_client_is_told_that_the_server_shuts_down(self, serve: Serve) -> None:
        serving = serve().ready()
        token = serving.command("device", "add", "one").stdout.strip()
        reasons: list[ReasonCode] = []
        connected, disconnected = threading.Event(), threading.Event()
        client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        client.username_pw_set(token)

        def on_connect(*arguments: Any) -> None:
            connected.set()

        def on_disconnect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
            reasons.append(reason)
            client.disconnect()
            disconnected.set()

        client.on_connect, client.on_disconnect = on_connect, on_disconnect
        client.connect("127.0.0.1", serving.port("mqtt"))
        client.loop_start()
        try:
            assert connected.wait(30)
            assert serving.stop() == 0
            assert disconnected.wait(30)
        finally:
            client.loop_stop()

        assert reasons[0].value == 0x8B

    def test_a_request_that_never_ends_delays_it_by_no_more_than_the_timeout(self, serve: Serve) -> None:
        serving = serve("--set", "server.shutdown_timeout_s=1").ready()

        with endless_request(serving):
            assert serving.stop() == 0  # or it would be killed

    def test_asked_twice_it_ends_at_once(self, serve: Serve) -> None:
        serving = serve("--set", "server.shutdown_timeout_s=600").ready()

        with endless_request(serving):
            serving.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in "".join(serving.log))
            assert serving.stop() == 1


class TestSeveralProcesses:
    def test_processes_that_start_at_once_on_one_new_database_create_it_together(
        self, serve: Serve, postgres_server: PostgresServer
    ) -> None:
        environ = {
            "GATEWAY_DATABASE__URL": postgres_server.url(postgres_server.new_database()),
            "GATEWAY_SERVER__SECRET_KEY": "k" * 50,
        }

        started = [serve("--set", f"data_dir={name}", **environ) for name in ("one", "other")]

        for serving in started:
            serving.ready()
        for serving in started:
            assert serving.stop() == 0
        assert sorted("password" in serving.output for serving in started) == [False, True]


class TestCannotStart:
    def test_a_taken_port_is_one_line_and_1(self, serve: Serve) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            bind = f"127.0.0.1:{taken.getsockname()[1]}"

            serving = serve("--set", f"listeners.1.bind={bind}")

            assert serving.ended() == 1
        assert serving.log == [
            f"gateway: cannot listen at {bind}: Address already in use (another gateway? see bind in [[listeners]])\n"
        ]

    def test_the_first_password_is_not_lost_by_a_taken_port(self, serve: Serve) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            failed = serve("--set", f"listeners.1.bind=127.0.0.1:{taken.getsockname()[1]}")
            assert failed.ended() == 1
            assert failed.output == ""

        serving = serve().ready()

        assert wait_until(lambda: "password" in serving.output)

    def test_a_data_directory_in_use_is_one_line_and_1(self, serve: Serve) -> None:
        first = serve().ready()

        second = serve()

        assert second.ended() == 1
        (line,) = second.log
        assert line.startswith(
            f"gateway: the data directory var is in use by another gateway (process {first.process.pid}); "
        )

    def test_a_database_that_is_away_is_one_line_and_1(self, serve: Serve) -> None:
        serving = serve(GATEWAY_DATABASE__URL="postgresql://gateway:hunter2@127.0.0.1:1/gateway")

        assert serving.ended() == 1
        (line,) = "".join(serving.log).strip().split("\ngateway: ")
        assert line.startswith("gateway: cannot prepare the database: ")
        assert "hunter2" not in line
        assert "Traceback" not in line

    def test_a_layer_in_a_redis_that_is_away_is_one_line_and_1(self, serve: Serve) -> None:
        serving = serve(GATEWAY_LAYER__URL="redis://:hunter2@127.0.0.1:1/0")

        assert serving.ended() == 1
        assert serving.log[-1].startswith("gateway: cannot use the channel layer: Redis at redis://127.0.0.1:1/0")
        assert "hunter2" not in "".join(serving.log)
        assert "Traceback" not in "".join(serving.log)

    def test_a_certificate_that_is_not_there_is_one_line_and_1(self, serve: Serve) -> None:
        serving = serve("--set", "listeners.0.tls.certfile=absent.pem")

        assert serving.ended() == 1
        assert serving.log[-1].startswith("gateway: cannot use the certificate of the listener at 127.0.0.1:0: ")
        assert "Traceback" not in "".join(serving.log)


def log_in(url: str, username: str, password: str, cookies: http.cookiejar.CookieJar | None = None) -> bool:
    """Whether the admin's login form takes them, in a browser that has `cookies`."""
    jar = http.cookiejar.CookieJar() if cookies is None else cookies
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    with opener.open(f"{url}/admin/login/", timeout=30) as response:
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', response.read().decode())
    assert token is not None
    form = {"username": username, "password": password, "csrfmiddlewaretoken": token[1], "next": "/admin/"}
    with opener.open(f"{url}/admin/login/", urllib.parse.urlencode(form).encode(), timeout=30) as response:
        return bool(response.url == f"{url}/admin/")


def endless_request(serving: Serving) -> socket.socket:
    """A connection on which the server waits for the rest of a body."""
    connection = socket.create_connection(("127.0.0.1", serving.port("http")))
    connection.sendall(
        b"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nusername="
    )
    time.sleep(0.2)
    return connection
