"""From the first byte to the CONNACK, and what follows from it [MQTT5-3.1] [MQTT5-3.2]."""

import pytest

from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
    PingReq,
    PingResp,
    Publish,
    ReasonCode,
    Will,
)
from protocols.mqtt.connection import MAX_HELD_BYTES, State
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import World


def connect(client_id: str = "c", version: int = 5, **fields: object) -> Connect:
    return Connect(version=version, client_id=client_id, **fields)  # type: ignore[arg-type]


class TestConnect:
    """[MQTT5-3.1]"""

    def test_the_application_is_asked_with_the_password(self) -> None:
        client = World(MqttOptions(allow_anonymous=True)).client()

        events = client.send(connect(username="u", password=b"p"))

        assert events == [
            {
                "type": "mqtt.connect",
                "password": b"p",
                "allow_anonymous": True,
                "authentication_method": None,
                "authentication_data": None,
            }
        ]
        assert client.connection.connect is not None
        assert client.connection.connect.username == "u"
        assert client.read() == []

    def test_the_password_is_forgotten_once_the_application_has_answered(self) -> None:
        client = World().client()
        client.send(connect(password=b"p"))

        client.answer({"type": "mqtt.accept"})

        assert client.connection.connect is None

    @pytest.mark.mqtt("MQTT5-3.1.4-5", "MQTT5-3.2.0-1", "MQTT5-3.2.0-2", "MQTT3-3.1.4-4", "MQTT3-3.2.0-1")
    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_acceptance_is_a_connack_in_the_clients_version(self, version: int) -> None:
        client = World().client(version)
        client.send(connect(version=version))

        client.answer({"type": "mqtt.accept"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert (packet.reason_code, packet.session_present) == (0, False)

    @pytest.mark.mqtt("MQTT5-3.2.0-1", "MQTT3-3.2.0-1")
    def test_packets_that_come_before_the_answer_wait_for_it(self) -> None:
        client = World().client()
        client.send(connect(), Publish(topic="t", payload=b"early", qos=1, packet_id=1), PingReq())
        client.send(Publish(topic="t", payload=b"later", qos=1, packet_id=2))
        assert [event["type"] for event in client.events] == ["mqtt.connect"]

        client.answer({"type": "mqtt.accept"})
        events = client.send_bytes(b"")

        assert [event["payload"] for event in events] == [b"early", b"later"]
        assert [type(packet) for packet in client.read()] == [ConnAck, PingResp]

    def test_too_much_before_the_answer_ends_the_connection(self) -> None:
        client = World().client()
        client.send(connect())

        client.send_bytes(b"x" * (MAX_HELD_BYTES + 1))

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.QUOTA_EXCEEDED

    @pytest.mark.mqtt("MQTT5-3.1.0-1")
    def test_a_first_packet_that_is_not_connect_ends_the_connection_in_silence(self) -> None:
        client = World().client()

        client.send(PingReq())

        assert client.read() == []
        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.1.0-2")
    def test_a_second_connect_is_a_protocol_error(self) -> None:
        client = World().connected("c")

        client.send(connect())

        [packet] = client.read()
        assert isinstance(packet, Disconnect)
        assert packet.reason_code == ReasonCode.PROTOCOL_ERROR
        assert packet.properties["reason_string"] == "CONNECT is not allowed here"

    @pytest.mark.mqtt("MQTT5-3.1.2-2", "MQTT3-3.1.2-2")
    def test_an_unsupported_version_is_told_the_supported_ones_exist(self) -> None:
        client = World().client(version=4)

        client.send_bytes(b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x3c\x00\x01c")

        assert client.connection.writer.take_output() == b"\x20\x02\x00\x01"
        assert client.connection.state is State.CLOSED

    @pytest.mark.mqtt("MQTT5-3.1.4-1")
    def test_malformed_properties_of_a_version_5_connect_are_answered(self) -> None:
        client = World().client()

        client.send_bytes(b"\x10\x0f\x00\x04MQTT\x05\x02\x00\x00\x02\x7f\x00\x00\x01c")

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.MALFORMED_PACKET


class TestClientIdentifier:
    """[MQTT5-3.1.3.1] [MQTT3-3.1.3]"""

    @pytest.mark.mqtt("MQTT5-3.1.3-6", "MQTT5-3.1.3-7")
    def test_a_client_without_one_is_assigned_one(self) -> None:
        world = World()

        client = world.connected("")

        assert client.connack.properties["assigned_client_identifier"].startswith("auto-")

    @pytest.mark.mqtt("MQTT5-3.2.2-16", "MQTT3-3.1.3-6")
    def test_assigned_identifiers_differ(self) -> None:
        world = World()

        one, other = world.connected("", version=4), world.connected("", version=4)

        assert one.connection.session is not other.connection.session
        assert one.connection.end is None

    @pytest.mark.mqtt("MQTT3-3.1.3-8", "MQTT3-3.1.3-9")
    def test_without_one_a_session_cannot_be_kept_before_version_5(self) -> None:
        client = World().client(version=4)

        client.send(connect("", version=4, clean_start=False))

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.CLIENT_IDENTIFIER_NOT_VALID

    def test_the_application_may_set_another(self) -> None:
        world = World()
        client = world.client()
        client.send(connect("whatever"))

        client.answer({"type": "mqtt.accept", "client_id": "device.7"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert world.broker.sessions.get("whatever") is None
        assert world.broker.sessions.get("device.7") is client.connection.session
        assert "assigned_client_identifier" not in packet.properties

    def test_a_client_without_an_identifier_is_not_told_the_one_that_the_application_set(self) -> None:
        """It would come back with it, and the application would take it for the client's own."""
        client = World().client()
        client.send(connect(""))
        assert client.connection.connect is not None
        assigned = client.connection.connect.client_id

        client.answer({"type": "mqtt.accept", "client_id": f"7/{assigned}"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.properties["assigned_client_identifier"] == assigned


class TestConnack:
    """[MQTT5-3.2]"""

    def test_a_connack_says_what_the_server_allows(self) -> None:
        world = World(MqttOptions(receive_maximum=7, max_packet_bytes=1_000, max_topic_aliases=3))

        properties = world.connected("c", keep_alive_s=60).connack.properties

        assert properties == {"receive_maximum": 7, "maximum_packet_size": 1_000, "topic_alias_maximum": 3}

    def test_what_the_client_asked_too_much_of_is_said(self) -> None:
        world = World(MqttOptions(max_keep_alive_s=100, max_session_expiry_s=50))

        properties = world.connected(
            "c", keep_alive_s=101, properties={"session_expiry_interval": 51}
        ).connack.properties

        assert properties["server_keep_alive"] == 100
        assert properties["session_expiry_interval"] == 50

    def test_a_client_that_wants_no_keep_alive_gets_one(self) -> None:
        world = World(MqttOptions(max_keep_alive_s=100))

        assert world.connected("c", keep_alive_s=0).connack.properties["server_keep_alive"] == 100

    @pytest.mark.mqtt("MQTT5-3.2.2-9")
    def test_the_application_may_grant_less_qos_and_add_properties(self) -> None:
        client = World().client()
        client.send(connect())

        client.answer({"type": "mqtt.accept", "maximum_qos": 1, "properties": {"user_property": [("region", "eu")]}})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.properties["maximum_qos"] == 1
        assert packet.properties["user_property"] == [("region", "eu")]

    @pytest.mark.mqtt("MQTT5-3.2.2-12")
    def test_a_will_over_the_granted_qos_is_refused(self) -> None:
        client = World().client()
        client.send(connect(will=Will(topic="t", payload=b"", qos=2)))

        client.answer({"type": "mqtt.accept", "maximum_qos": 1})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.QOS_NOT_SUPPORTED

    @pytest.mark.mqtt(
        "MQTT5-3.1.4-2", "MQTT5-3.2.2-6", "MQTT5-3.2.2-7", "MQTT5-3.2.2-8", "MQTT3-3.2.2-4", "MQTT3-3.2.2-5"
    )
    @pytest.mark.parametrize(("version", "code"), [(5, ReasonCode.BANNED), (4, ReasonCode.NOT_AUTHORIZED)])
    def test_rejection_has_the_code_of_the_application_as_the_version_can_say_it(self, version: int, code: int) -> None:
        client = World().client(version)
        client.send(connect(version=version))

        client.answer({"type": "mqtt.reject", "reason_code": ReasonCode.BANNED, "reason_string": "go away"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == code
        assert client.reason == ("application", ReasonCode.BANNED)

    @pytest.mark.mqtt("MQTT5-3.2.2-19")
    def test_a_reason_string_is_left_out_for_a_client_that_takes_no_packet_of_that_size(self) -> None:
        client = World().client()
        client.send(connect(properties={"maximum_packet_size": 20}))

        client.answer({"type": "mqtt.reject", "reason_code": 0x87, "reason_string": "x" * 100})

        assert client.read() == [ConnAck(reason_code=0x87)]


class TestMaximumPacketSize:
    """[MQTT5-3.1.2.11.4]"""

    @pytest.mark.mqtt("MQTT5-3.1.2-24", "MQTT5-3.14.0-1", "MQTT5-4.13.2-1")
    def test_a_client_that_takes_no_connack_is_closed_without_a_word(self) -> None:
        client = World().client()
        client.send(connect(properties={"maximum_packet_size": 15}))

        client.answer({"type": "mqtt.accept"})

        assert client.read() == []
        assert client.reason == ("protocol_error", ReasonCode.PACKET_TOO_LARGE)

    @pytest.mark.mqtt("MQTT5-3.1.2-24", "MQTT5-4.13.2-1")
    def test_a_client_that_takes_no_refusal_is_closed_without_a_word(self) -> None:
        client = World().client()
        client.send(connect(properties={"maximum_packet_size": 4}))

        client.answer({"type": "mqtt.reject", "reason_code": 0x87})

        assert client.read() == []

    @pytest.mark.mqtt("MQTT5-3.2.2-20")
    def test_what_binds_the_client_stays_in_a_connack_that_loses_its_user_properties(self) -> None:
        client = World().client()
        client.send(connect(keep_alive_s=60, properties={"maximum_packet_size": 40}))

        properties = {"user_property": [("k", "x" * 30)], "reason_string": "welcome"}
        client.answer({"type": "mqtt.accept", "properties": properties})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.properties == {
            "receive_maximum": 512,
            "maximum_packet_size": 262_144,
            "topic_alias_maximum": 32,
            "reason_string": "welcome",
        }


class TestResponseInformation:
    """[MQTT5-3.1.2.11.6]"""

    @pytest.mark.mqtt("MQTT5-3.1.2-28")
    @pytest.mark.parametrize("asked", [0, 1])
    def test_response_information_is_for_clients_that_ask_for_it(self, asked: int) -> None:
        client = World().client()
        client.send(connect(properties={"request_response_information": asked}))

        client.answer({"type": "mqtt.accept", "properties": {"response_information": "replies/c"}})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert ("response_information" in packet.properties) == bool(asked)


class TestServerReference:
    """[MQTT5-4.11]"""

    def test_a_refusal_may_name_another_server(self) -> None:
        client = World().client()
        client.send(connect())

        reject = {"type": "mqtt.reject", "reason_code": ReasonCode.USE_ANOTHER_SERVER}
        client.answer({**reject, "properties": {"server_reference": "b.example"}})

        assert client.read() == [
            ConnAck(reason_code=ReasonCode.USE_ANOTHER_SERVER, properties={"server_reference": "b.example"})
        ]

    def test_the_end_of_a_connection_may_name_another_server(self) -> None:
        client = World().connected("c")

        close = {"type": "mqtt.close", "reason_code": ReasonCode.SERVER_MOVED}
        client.answer({**close, "properties": {"server_reference": "b.example"}})

        assert client.read() == [
            Disconnect(reason_code=ReasonCode.SERVER_MOVED, properties={"server_reference": "b.example"})
        ]


class TestPacketsOfAServer:
    """[MQTT5-2.1.2]: what only a server sends is refused whatever is in it, as is what the state does not allow."""

    @pytest.mark.parametrize("version", [3, 4, 5])
    @pytest.mark.parametrize(
        "data", [b"\x00\x00", b"\x20\x00", b"\x90\x01x", b"\xb0\x00", b"\xd0\x00", b"\xf0\x01\x01"]
    )
    def test_a_packet_of_a_server_is_a_protocol_error(self, version: int, data: bytes) -> None:
        client = World().connected("c", version=version)

        client.send_bytes(data)

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-2.1.3-1", "MQTT3-2.2.2-2")
    @pytest.mark.parametrize("version", [4, 5])
    @pytest.mark.parametrize("data", [b"\x11\x00", b"\x22\x00", b"\x91\x01x", b"\xb8\x00", b"\xd1\x00", b"\xf4\x00"])
    def test_a_packet_of_a_server_is_malformed_with_flags_that_are_reserved(self, version: int, data: bytes) -> None:
        client = World().connected("c", version=version)

        client.send_bytes(data)

        assert client.reason == ("protocol_error", ReasonCode.MALFORMED_PACKET)

    def test_before_the_rest_of_it_has_come(self) -> None:
        client = World().connected("c")

        client.send_bytes(b"\x0a\xc0")

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.1.0-2")
    def test_a_second_connect_is_one_even_if_it_is_malformed(self) -> None:
        client = World().connected("c")

        client.send_bytes(b"\x10\x00")

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)


class TestWhatAnApplicationMayNotDo:
    def test_reject_with_success(self) -> None:
        client = World().client()
        client.send(connect())

        with pytest.raises(ValueError, match="expected a reason_code of 0x80 or more, got 0x00"):
            client.answer({"type": "mqtt.reject", "reason_code": 0})

    def test_accept_twice(self) -> None:
        client = World().connected("c")

        with pytest.raises(RuntimeError, match=r"mqtt\.accept was sent after the answer to mqtt\.connect"):
            client.answer({"type": "mqtt.accept"})

    def test_accept_with_properties_that_a_connack_cannot_have(self) -> None:
        client = World().client()
        client.send(connect())

        with pytest.raises(ValueError, match="'topic_alias' is not a property of this packet"):
            client.answer({"type": "mqtt.accept", "properties": {"topic_alias": 1}})

        assert client.connection.state is State.AUTHORIZING

    def test_publish_before_it_accepts(self) -> None:
        client = World().client()
        client.send(connect())

        with pytest.raises(RuntimeError, match=r"mqtt\.publish was sent before the answer"):
            client.answer({"type": "mqtt.publish", "topic": "t", "payload": b""})

    def test_send_what_does_not_exist(self) -> None:
        client = World().connected("c")

        with pytest.raises(ValueError, match=r"expected one of mqtt\.ack, .*; got 'mqtt\.bye'"):
            client.answer({"type": "mqtt.bye"})

    @pytest.mark.parametrize(
        "message", [{"topic": "a/#"}, {"topic": ""}, {"qos": 3}, {"properties": {"session_expiry_interval": 1}}]
    )
    def test_publish_what_mqtt_cannot_say(self, message: dict[str, object]) -> None:
        client = World().connected("c")

        with pytest.raises(ValueError, match=r"topic|expected|property"):
            client.answer({"type": "mqtt.publish", "topic": "t", "payload": b"", **message})

        assert client.connection.end is None
