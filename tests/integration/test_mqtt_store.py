"""Where `gateway serve` keeps MQTT sessions, and what keeps it from starting."""

import sqlite3
from collections.abc import Callable
from typing import TypeAlias

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from protocols.mqtt.storage.sqlite import MIGRATIONS
from tests.support.redis import RedisServer
from tests.support.serving import Serving

Serve: TypeAlias = Callable[..., Serving]

ANONYMOUS = ("--set", "listeners.1.allow_anonymous=true")


def session_present(serving: Serving) -> bool:
    """Connects a client that wants its session kept; whether the gateway had it."""
    answers: list[bool] = []
    client = paho.Client(CallbackAPIVersion.VERSION2, "kept", clean_session=False)

    def on_connect(_client: object, _data: object, flags: paho.ConnectFlags, *_: object) -> None:
        answers.append(flags.session_present)
        client.disconnect()

    client.on_connect = on_connect
    client.connect("127.0.0.1", serving.port("mqtt"))
    client.loop_forever()
    return answers[0]


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    with redis_server.client() as client:
        client.select(9)
        client.flushdb()
    return f"{redis_server.url}/9"


class TestRestart:
    def test_sessions_are_in_the_data_directory_for_its_user_alone(self, serve: Serve) -> None:
        first = serve(*ANONYMOUS).ready()
        assert not session_present(first)
        assert first.stop() == 0

        assert (first.directory / "var" / "mqtt.sqlite3").stat().st_mode & 0o777 == 0o600
        second = serve(*ANONYMOUS).ready()
        assert any("restored 1 MQTT sessions" in line for line in second.log)
        assert session_present(second)

    def test_sessions_are_in_redis_if_asked_for(self, serve: Serve, redis_url: str) -> None:
        environ = {"GATEWAY_MQTT__STORE": redis_url}
        first = serve(*ANONYMOUS, **environ).ready()
        assert not session_present(first)
        assert first.stop() == 0

        assert not (first.directory / "var" / "mqtt.sqlite3").exists()
        assert session_present(serve(*ANONYMOUS, **environ).ready())

    def test_sessions_are_nowhere_if_asked_for(self, serve: Serve) -> None:
        arguments = (*ANONYMOUS, "--set", "mqtt.store=memory")
        first = serve(*arguments).ready()
        assert not session_present(first)
        assert session_present(first)
        assert first.stop() == 0

        assert not session_present(serve(*arguments).ready())


class TestCannotStart:
    def test_a_file_of_a_later_version_is_one_line_and_1(self, serve: Serve) -> None:
        first = serve().ready()
        assert first.stop() == 0
        file = first.directory / "var" / "mqtt.sqlite3"
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()

        serving = serve()

        assert serving.ended() == 1
        assert serving.log[-1] == (
            "gateway: cannot keep MQTT sessions: var/mqtt.sqlite3 has format 99, of a later version; "
            f"this one knows formats up to {len(MIGRATIONS)}\n"
        )

    def test_a_store_in_a_redis_that_is_away_is_one_line_and_1(self, serve: Serve) -> None:
        serving = serve(GATEWAY_MQTT__STORE="redis://:hunter2@127.0.0.1:1/0")

        assert serving.ended() == 1
        assert serving.log[-1].startswith("gateway: cannot keep MQTT sessions: cannot use Redis: ")
        assert "hunter2" not in "".join(serving.log)
        assert "Traceback" not in "".join(serving.log)
