"""How connections end, and what time has to do with it [MQTT5-3.14] [MQTT5-4.13] [MQTT5-3.1.2.10]."""

import pytest

from protocols.mqtt.codec.decoder import encode
from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    ReasonCode,
)
from protocols.mqtt.connection import ANSWER_TIMEOUT_S
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import World


def connect(client_id: str = "c", version: int = 5, **fields: object) -> Connect:
    return Connect(version=version, client_id=client_id, **fields)  # type: ignore[arg-type]


class TestTimeouts:
    """[MQTT5-3.1.2.10] [MQTT5-3.1.4]"""

    def test_a_connect_that_does_not_come_in_time(self) -> None:
        world = World(MqttOptions(connect_timeout_s=5))
        client = world.client()
        client.send_bytes(b"\x10")
        assert client.connection.deadline == world.now + 5

        client.connection.check(world.now + 5, reading=True)

        assert client.reason[0] == "protocol_error"
        assert client.read() == []

    def test_an_application_that_does_not_answer_in_time(self) -> None:
        world = World()
        client = world.client()
        client.send(connect())
        assert client.connection.deadline == world.now + ANSWER_TIMEOUT_S

        client.connection.check(world.now + ANSWER_TIMEOUT_S, reading=False)

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.SERVER_UNAVAILABLE

    @pytest.mark.mqtt("MQTT5-3.1.2-22", "MQTT5-3.2.2-22")
    def test_silence_for_one_and_a_half_keep_alive(self) -> None:
        world = World()
        client = world.connected("c", keep_alive_s=10)
        assert client.connection.deadline == world.now + 15

        client.connection.check(world.now + 15, reading=True)

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.KEEP_ALIVE_TIMEOUT
        assert client.reason == ("keep_alive", ReasonCode.KEEP_ALIVE_TIMEOUT)

    @pytest.mark.mqtt("MQTT5-3.12.4-1")
    def test_any_packet_starts_it_anew(self) -> None:
        world = World()
        client = world.connected("c", keep_alive_s=10)
        world.pass_time(14)

        client.send(PingReq())

        assert client.connection.deadline == world.now + 15
        assert client.read() == [PingResp()]

    def test_a_client_that_we_do_not_read_is_not_blamed_for_silence(self) -> None:
        world = World()
        client = world.connected("c", keep_alive_s=10)
        world.pass_time(15)

        client.connection.check(world.now, reading=False)

        assert client.connection.end is None
        assert client.connection.deadline == world.now + 15

    def test_no_keep_alive_means_no_deadline_before_version_5(self) -> None:
        assert World().connected("c", version=4, keep_alive_s=0).connection.deadline == float("inf")


class TestDisconnect:
    """[MQTT5-3.14] [MQTT5-4.13]"""

    @pytest.mark.mqtt("MQTT5-3.14.4-1")
    def test_a_client_may_disconnect(self) -> None:
        client = World().connected("c")

        client.send(Disconnect(properties={"user_property": [("a", "b")]}), PingReq())

        assert client.reason == ("client", 0)
        assert client.connection.end is not None
        assert client.connection.end.event()["properties"] == {"user_property": [("a", "b")]}
        assert client.read() == [], "nothing is answered after a DISCONNECT"

    def test_the_application_may_disconnect_a_client(self) -> None:
        client = World().connected("c")

        client.answer({"type": "mqtt.close", "reason_string": "device disabled"})

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.ADMINISTRATIVE_ACTION
        assert packet.properties == {"reason_string": "device disabled"}
        assert client.reason == ("application", ReasonCode.ADMINISTRATIVE_ACTION)

    def test_before_version_5_the_server_closes_without_a_word(self) -> None:
        client = World().connected("c", version=4)

        client.answer({"type": "mqtt.close"})

        assert client.read() == []
        assert client.reason == ("application", ReasonCode.ADMINISTRATIVE_ACTION)

    def test_a_shutdown_disconnects_clients(self) -> None:
        world = World()
        client = world.connected("c")

        client.connection.shut_down(world.now)

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.SERVER_SHUTTING_DOWN

    @pytest.mark.parametrize("failed", [False, True])
    def test_when_the_application_ends_first(self, failed: bool) -> None:
        world = World()
        client = world.connected("c")

        client.connection.application_ended(world.now, failed=failed)

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR

    def test_when_the_application_ends_before_it_answers(self) -> None:
        world = World()
        client = world.client()
        client.send(connect())

        client.connection.application_ended(world.now, failed=True)

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.SERVER_UNAVAILABLE

    def test_malformed_bytes_end_it_after_the_packets_before_them_are_served(self) -> None:
        client = World().connected("c")

        events = client.send_bytes(encode(Publish(topic="t", qos=1, packet_id=1), 5) + b"\x36\x00")

        assert [event["type"] for event in events] == ["mqtt.publish"]
        assert client.reason == ("protocol_error", ReasonCode.MALFORMED_PACKET)

    @pytest.mark.mqtt("MQTT5-3.14.2-1")
    def test_a_code_that_the_packet_cannot_carry_becomes_one_that_it_can(self) -> None:
        client = World().connected("c")

        client.answer({"type": "mqtt.close", "reason_code": ReasonCode.BANNED})

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.IMPLEMENTATION_SPECIFIC_ERROR
        assert client.reason == ("application", ReasonCode.BANNED)

    def test_what_the_application_sends_afterwards_is_ignored(self) -> None:
        client = World().connected("c")
        client.lose()

        client.answer({"type": "mqtt.publish", "topic": "t", "payload": b"late"})
        client.answer({"type": "mqtt.close"})

        assert client.read() == []
        assert client.reason[0] == "lost"

    def test_an_acknowledgement_of_something_unknown_is_ignored_and_counted(self) -> None:
        client = World().connected("c")

        client.answer({"type": "mqtt.ack", "ack_id": 5})
        client.answer({"type": "mqtt.ack", "ack_id": -5})

        assert client.connection.unknown_acks == 2
        assert client.read() == []

    def test_a_puback_of_something_unknown_is_ignored(self) -> None:
        client = World().connected("c")

        client.send(PubAck(9))

        assert client.connection.end is None


class TestTakeover:
    """[MQTT5-3.1.4-3]"""

    @pytest.mark.mqtt("MQTT5-3.1.4-3", "MQTT5-3.1.2-5", "MQTT5-3.1.3-2", "MQTT5-3.2.2-3")
    def test_the_newcomer_has_the_session_and_the_other_is_told(self) -> None:
        world = World()
        old = world.connected("c", properties={"session_expiry_interval": 100})

        new = world.connected("c", clean_start=False, properties={"session_expiry_interval": 100})

        [packet] = old.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.SESSION_TAKEN_OVER
        assert old.reason == ("taken_over", ReasonCode.SESSION_TAKEN_OVER)
        assert new.connack.session_present
        assert new.connection.session is old.connection.session

    def test_a_session_that_ends_with_its_connection_is_not_taken_over(self) -> None:
        world = World()
        world.connected("c")

        assert not world.connected("c", clean_start=False).connack.session_present

    @pytest.mark.mqtt("MQTT5-4.1.0-1")
    def test_nothing_happens_before_the_application_accepts_the_newcomer(self) -> None:
        world = World()
        old = world.connected("c")

        new = world.client()
        new.send(connect())
        new.answer({"type": "mqtt.reject", "reason_code": 0x87})

        assert old.connection.end is None
