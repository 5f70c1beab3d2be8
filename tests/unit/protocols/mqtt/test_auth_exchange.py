"""Enhanced authentication: the exchange before the CONNACK, and again later [MQTT5-3.15] [MQTT5-4.12]."""

import pytest

from protocols.mqtt.codec.decoder import encode
from protocols.mqtt.codec.packets import Auth, ConnAck, Connect, Disconnect, PingReq, PingResp, Publish, ReasonCode
from protocols.mqtt.connection import ANSWER_TIMEOUT_S
from protocols.mqtt.options import MqttOptions
from tests.unit.protocols.mqtt.harness import Client, World

METHOD = "SCRAM-SHA-256"
CONTINUE = ReasonCode.CONTINUE_AUTHENTICATION


def connect(data: bytes | None = b"client first", **properties: object) -> Connect:
    proof = {} if data is None else {"authentication_data": data}
    return Connect(version=5, client_id="c", properties={"authentication_method": METHOD, **proof, **properties})


def auth(reason_code: int = CONTINUE, data: bytes = b"proof", method: str = METHOD, **properties: object) -> Auth:
    return Auth(
        reason_code=reason_code,
        properties={"authentication_method": method, "authentication_data": data, **properties},
    )


def challenged(world: World | None = None) -> Client:
    """A client that has been sent a challenge."""
    client = (world or World()).client()
    client.send(connect())
    client.answer({"type": "mqtt.auth", "data": b"challenge"})
    client.read()
    client.events.clear()
    return client


def authenticated(**properties: object) -> Client:
    """A client that has been accepted."""
    client = World().client()
    client.send(connect(**properties))  # type: ignore[arg-type]
    client.answer({"type": "mqtt.accept", "authentication_method": METHOD})
    client.read()
    client.events.clear()
    return client


class TestBeforeTheConnack:
    def test_the_application_is_told_method_and_data(self) -> None:
        client = World().client()

        [event] = client.send(connect())

        assert (event["authentication_method"], event["authentication_data"]) == (METHOD, b"client first")

    @pytest.mark.mqtt("MQTT5-4.12.0-2", "MQTT5-4.12.0-5", "MQTT5-3.15.2-1")
    def test_the_application_may_challenge_the_client(self) -> None:
        client = World().client()
        client.send(connect())

        client.answer({"type": "mqtt.auth", "data": b"challenge", "reason_string": "prove it"})

        assert client.read() == [auth(data=b"challenge", reason_string="prove it")]

    def test_the_application_is_told_the_answer_to_its_challenge(self) -> None:
        client = challenged()

        events = client.send(auth(user_property=[("a", "b")]))

        assert events == [
            {
                "type": "mqtt.auth",
                "reauthenticate": False,
                "data": b"proof",
                "properties": {"user_property": [("a", "b")]},
            }
        ]

    @pytest.mark.mqtt("MQTT5-4.12.0-5")
    def test_acceptance_names_the_method_and_has_the_last_data(self) -> None:
        client = challenged()
        client.send(auth())

        client.answer({"type": "mqtt.accept", "authentication_method": METHOD, "authentication_data": b"verifier"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.SUCCESS
        assert packet.properties["authentication_method"] == METHOD
        assert packet.properties["authentication_data"] == b"verifier"

    @pytest.mark.mqtt("MQTT5-4.12.0-4")
    def test_a_refusal_ends_it_at_any_time(self) -> None:
        client = challenged()
        client.send(auth())

        client.answer({"type": "mqtt.reject", "reason_code": ReasonCode.NOT_AUTHORIZED})

        assert client.read() == [ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED)]

    def test_an_authentication_may_have_several_rounds(self) -> None:
        client = challenged()
        for _ in range(3):
            client.send(auth())
            client.answer({"type": "mqtt.auth", "data": b"more"})

        assert client.read() == [auth(data=b"more")] * 3

    @pytest.mark.mqtt("MQTT5-4.12.0-1")
    def test_an_application_that_does_not_know_the_method_does_not_accept_the_client(self) -> None:
        client = World().client()
        client.send(connect())

        client.answer({"type": "mqtt.accept"})

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.BAD_AUTHENTICATION_METHOD

    @pytest.mark.mqtt("MQTT5-4.12.0-6")
    def test_a_client_that_named_no_method_is_not_told_one(self) -> None:
        connack = World().connected("c").connack

        assert "authentication_method" not in connack.properties

    @pytest.mark.mqtt("MQTT5-3.1.2-30")
    @pytest.mark.parametrize("packet", [PingReq(), Publish(topic="t"), auth()])
    def test_while_the_application_decides_the_client_may_send_nothing_but_disconnect(self, packet: Auth) -> None:
        client = World().client()

        client.send(connect(), packet)

        [answer] = client.read()
        assert isinstance(answer, ConnAck)
        assert answer.reason_code == ReasonCode.PROTOCOL_ERROR

    @pytest.mark.mqtt("MQTT5-3.1.2-30", "MQTT5-4.12.0-3")
    @pytest.mark.parametrize("packet", [PingReq(), Publish(topic="t"), auth(0x19), auth(0x00), auth(method="PLAIN")])
    def test_after_a_challenge_nothing_but_its_answer(self, packet: Auth) -> None:
        client = challenged()

        client.send(packet)

        [answer] = client.read()
        assert isinstance(answer, ConnAck)
        assert answer.reason_code == ReasonCode.PROTOCOL_ERROR

    def test_a_client_may_give_up(self) -> None:
        client = challenged()

        client.send(Disconnect())

        assert client.read() == []
        assert client.reason == ("client", 0)

    def test_a_client_that_does_not_answer_in_time_is_refused(self) -> None:
        world = World(MqttOptions(connect_timeout_s=5))
        client = challenged(world)
        assert client.connection.deadline == world.now + 5

        client.connection.check(world.now + 5, reading=True)

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.NOT_AUTHORIZED

    def test_an_application_that_does_not_either(self) -> None:
        world = World()
        client = challenged(world)
        client.send(auth())
        assert client.connection.deadline == world.now + ANSWER_TIMEOUT_S

        client.connection.check(world.now + ANSWER_TIMEOUT_S, reading=False)

        [packet] = client.read()
        assert isinstance(packet, ConnAck)
        assert packet.reason_code == ReasonCode.SERVER_UNAVAILABLE

    def test_what_comes_with_the_answer_waits_for_the_acceptance(self) -> None:
        client = challenged()
        client.send(auth())
        client.answer({"type": "mqtt.accept", "authentication_method": METHOD})

        client.send(PingReq())

        assert [type(packet) for packet in client.read()] == [ConnAck, PingResp]


class TestAgain:
    """[MQTT5-4.12.1]"""

    def test_a_client_may_prove_itself_again(self) -> None:
        client = authenticated()

        [event] = client.send(auth(ReasonCode.REAUTHENTICATE))
        assert (event["reauthenticate"], event["data"]) == (True, b"proof")
        client.answer({"type": "mqtt.auth", "data": b"challenge"})
        [event] = client.send(auth(data=b"answer"))
        assert (event["reauthenticate"], event["data"]) == (False, b"answer")
        client.answer({"type": "mqtt.auth", "reason_code": ReasonCode.SUCCESS, "data": b"verifier"})

        assert client.read() == [auth(data=b"challenge"), auth(ReasonCode.SUCCESS, b"verifier")]

    def test_other_packets_go_on_while_a_client_proves_itself_again(self) -> None:
        client = authenticated()
        client.send(auth(ReasonCode.REAUTHENTICATE))

        events = client.send(Publish(topic="t"), PingReq())

        assert [event["type"] for event in events] == ["mqtt.publish"]
        assert client.read() == [PingResp()]

    def test_a_client_may_prove_itself_more_than_once(self) -> None:
        client = authenticated()
        for _ in range(2):
            client.send(auth(ReasonCode.REAUTHENTICATE))
            client.answer({"type": "mqtt.auth", "reason_code": ReasonCode.SUCCESS})

        assert client.connection.end is None

    def test_a_client_may_not_prove_itself_twice_at_a_time(self) -> None:
        client = authenticated()

        client.send(auth(ReasonCode.REAUTHENTICATE), auth(ReasonCode.REAUTHENTICATE))

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-4.12.1-1")
    @pytest.mark.parametrize(
        "packet", [auth(ReasonCode.REAUTHENTICATE, method="PLAIN"), auth(), auth(ReasonCode.SUCCESS)]
    )
    def test_the_method_stays_and_the_beginning_is_a_beginning(self, packet: Auth) -> None:
        client = authenticated()

        client.send(packet)

        [answer] = client.read()
        assert isinstance(answer, Disconnect)
        assert answer.reason_code == ReasonCode.PROTOCOL_ERROR

    @pytest.mark.mqtt("MQTT5-4.12.1-2")
    def test_failure_ends_the_connection_with_the_reason(self) -> None:
        client = authenticated()
        client.send(auth(ReasonCode.REAUTHENTICATE))

        client.answer({"type": "mqtt.close", "reason_code": ReasonCode.NOT_AUTHORIZED, "reason_string": "wrong"})

        assert client.read() == [
            Disconnect(reason_code=ReasonCode.NOT_AUTHORIZED, properties={"reason_string": "wrong"})
        ]

    @pytest.mark.mqtt("MQTT5-3.1.2-29")
    def test_a_client_that_wants_no_problem_information_gets_no_reason_string(self) -> None:
        client = authenticated(request_problem_information=0)
        client.send(auth(ReasonCode.REAUTHENTICATE))

        client.answer({"type": "mqtt.auth", "data": b"x", "reason_string": "prove it"})

        assert client.read() == [auth(data=b"x")]

    @pytest.mark.mqtt("MQTT5-4.12.0-7")
    def test_a_client_that_named_no_method_cannot(self) -> None:
        client = World().connected("c")

        client.send(auth(ReasonCode.REAUTHENTICATE))

        assert client.reason == ("protocol_error", ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.15.1-1", "MQTT5-2.1.3-1")
    def test_flags_of_auth_are_reserved(self) -> None:
        client = authenticated()

        client.send_bytes(b"\xf1" + encode(auth(ReasonCode.REAUTHENTICATE), 5)[1:])

        assert client.reason == ("protocol_error", ReasonCode.MALFORMED_PACKET)


class TestWhatAnApplicationMayNotDo:
    @pytest.mark.mqtt("MQTT5-4.12.0-6")
    def test_challenge_a_client_that_wants_none(self) -> None:
        client = World().client()
        client.send(Connect(version=5, client_id="c"))

        with pytest.raises(RuntimeError, match="the client is not waiting"):
            client.answer({"type": "mqtt.auth", "data": b"challenge"})

    def test_challenge_twice(self) -> None:
        client = challenged()

        with pytest.raises(RuntimeError, match="the client is not waiting"):
            client.answer({"type": "mqtt.auth", "data": b"challenge"})

    def test_accept_while_the_client_is_asked(self) -> None:
        client = challenged()

        with pytest.raises(RuntimeError, match="while the client is asked"):
            client.answer({"type": "mqtt.accept", "authentication_method": METHOD})

    def test_say_success_before_it_accepts(self) -> None:
        client = World().client()
        client.send(connect())

        with pytest.raises(ValueError, match=r"success before the CONNACK is mqtt\.accept"):
            client.answer({"type": "mqtt.auth", "reason_code": ReasonCode.SUCCESS})
