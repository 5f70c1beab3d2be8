"""What breaks the protocol ends its own connection, with the reason where the version can say it, and nothing else."""

import pytest

from protocols.mqtt.codec.errors import UnsupportedProtocolVersionError
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    PacketType,
    PingResp,
    Publish,
    ReasonCode,
    SubAck,
    UnsubAck,
)
from tests.integration.mqtt.application import AcceptEverything
from tests.integration.mqtt.fixture_types import Address, OpenRaw, Serve
from tests.support.waiting import until
from tests.unit.protocols.mqtt.codec.vectors import INVALID, MAX_PACKET_BYTES, InvalidVector

NEVER_SENT = (
    PacketType.CONNACK,
    PacketType.SUBACK,
    PacketType.UNSUBACK,
    PacketType.PINGRESP,
    PacketType.AUTH,  # without an authentication method in CONNECT
)


def name_of(vector: InvalidVector) -> str:
    return f"{vector.name} ({vector.version})".replace(" ", "-")


@pytest.fixture
async def address(serve: Serve, application: AcceptEverything) -> Address:
    """The server's limit is that of the vectors."""
    return await serve(application, max_packet_bytes=MAX_PACKET_BYTES)


class TestOnAConnection:
    @pytest.mark.mqtt("MQTT5-4.13.1-1", "MQTT5-4.13.2-1", "MQTT3-4.8.0-1", "MQTT3-2.2.2-2")
    @pytest.mark.parametrize("vector", [vector for vector in INVALID if vector.version], ids=name_of)
    async def test_the_client_is_told_the_reason_and_closed(
        self, raw: OpenRaw, application: AcceptEverything, vector: InvalidVector
    ) -> None:
        """[MQTT5-4.13.1-1] [MQTT3-4.8.0-1]; a packet that no client sends is refused whatever is in it."""
        assert vector.version is not None
        reason_code = ReasonCode.PROTOCOL_ERROR if vector.data[0] >> 4 in NEVER_SENT else vector.reason_code
        witness = await raw("witness")
        client = await raw("client", vector.version)

        client.send(vector.data)

        if vector.version == 5:
            await client.expect_disconnect(reason_code)
        else:
            await client.expect_end()
        await until(lambda: application.seen("mqtt.disconnect", "client"), "the disconnect event")
        (event,) = application.seen("mqtt.disconnect", "client")
        assert (event["reason"], event["reason_code"]) == ("protocol_error", reason_code)
        await witness.expect_nothing_more()

    async def test_what_came_before_it_is_done(self, raw: OpenRaw, application: AcceptEverything) -> None:
        client = await raw("client", 4)

        client.send(b"\x30\x04\x00\x01ax\x00\x00")

        await client.expect_end()
        await until(lambda: application.seen("mqtt.disconnect", "client"), "the disconnect event")
        assert [event["payload"] for event in application.seen("mqtt.publish", "client")] == [b"x"]

    @pytest.mark.mqtt("MQTT5-3.1.0-2", "MQTT3-3.1.0-2")
    @pytest.mark.parametrize("version", [4, 5])
    async def test_a_second_connect_ends_it(self, raw: OpenRaw, version: int) -> None:
        """[MQTT5-3.1.0-2] [MQTT3-3.1.0-2]"""
        client = await raw("client", version)

        client.send(Connect(version=version, client_id="client"))

        if version == 5:
            await client.expect_disconnect(ReasonCode.PROTOCOL_ERROR)
        else:
            await client.expect_end()

    @pytest.mark.parametrize(
        "packet",
        [
            ConnAck(),
            SubAck(packet_id=1, reason_codes=(0,)),
            UnsubAck(packet_id=1, reason_codes=(0,)),
            PingResp(),
            Auth(),
            Publish(topic="a", properties={"subscription_identifier": [1]}),
        ],
        ids=lambda packet: type(packet).__name__,
    )
    async def test_a_packet_that_only_a_server_sends_ends_it(self, raw: OpenRaw, packet: ConnAck) -> None:
        client = await raw("client", 5)

        client.send(packet)

        await client.expect_disconnect(ReasonCode.PROTOCOL_ERROR)

    @pytest.mark.mqtt("MQTT5-3.3.4-7")
    async def test_a_client_that_exceeds_the_receive_maximum_is_ended(self, serve: Serve, raw: OpenRaw) -> None:
        """[MQTT5-3.3.4-8]; QoS 2 is unacknowledged until its PUBCOMP."""
        strict = await serve(AcceptEverything(), receive_maximum=2)
        client = await raw("client", 5, to=strict)

        client.send(*(Publish(topic="a", qos=2, packet_id=index) for index in (1, 2, 3)))

        received = b""
        while not received.startswith(b"\xe0"):
            received = await client.receive_bytes()
        assert received[2] == ReasonCode.RECEIVE_MAXIMUM_EXCEEDED
        await client.expect_end()


class TestBeforeAConnection:
    @pytest.mark.mqtt("MQTT5-3.1.4-1", "MQTT3-3.1.4-1")
    @pytest.mark.parametrize("vector", [vector for vector in INVALID if not vector.version], ids=name_of)
    async def test_the_connection_is_closed(
        self, open_raw: OpenRaw, application: AcceptEverything, vector: InvalidVector
    ) -> None:
        """[MQTT5-3.1.4-2]: a CONNACK where the CONNECT could be understood as far as its version, nothing else."""
        is_5 = vector.data[2:9] == b"\x00\x04MQTT\x05"
        client = await open_raw(5 if is_5 else 4)

        client.send(vector.data)

        if is_5:
            answer = await client.receive()
            assert isinstance(answer, ConnAck)
            assert answer.reason_code == vector.reason_code
            await client.expect_end()
        elif vector.error is UnsupportedProtocolVersionError:
            assert await client.reader.read() in (b"", b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00")
        else:
            await client.expect_end()
        assert application.scopes == []

    @pytest.mark.mqtt("MQTT3-3.1.2-2", "MQTT5-3.1.2-2")
    @pytest.mark.parametrize("level", [0, 2, 6, 99, 255])
    @pytest.mark.parametrize(
        ("rest", "answer"),
        [
            (b"\x02\x00\x3c\x00\x01c", b"\x20\x02\x00\x01"),
            (b"\x02\x00\x3c\x00\x00\x01c", b"\x20\x03\x00\x84\x00"),
        ],
        ids=["3.1.1", "5.0"],
    )
    async def test_a_level_that_no_version_has_is_told_so_in_the_form_of_its_connect(
        self, open_raw: OpenRaw, level: int, rest: bytes, answer: bytes
    ) -> None:
        client = await open_raw()
        body = b"\x00\x04MQTT" + bytes((level,)) + rest

        client.send(b"\x10" + bytes((len(body),)) + body)

        await client.expect(answer)
        await client.expect_end()

    @pytest.mark.mqtt("MQTT5-3.1.0-1", "MQTT3-3.1.0-1")
    @pytest.mark.parametrize(
        "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-"]
    )
    async def test_another_protocol_gets_silence(self, open_raw: OpenRaw, data: bytes) -> None:
        client = await open_raw()

        client.send(data)

        await client.expect_end()

    @pytest.mark.mqtt("MQTT3-3.1.3-8", "MQTT3-3.1.3-9")
    @pytest.mark.parametrize(("version", "clean_start"), [(3, True), (4, False)])
    async def test_a_missing_client_identifier_is_refused_where_it_is_needed(
        self, open_raw: OpenRaw, version: int, clean_start: bool
    ) -> None:
        """[MQTT3-3.1.3-8] [MQTT3-3.1.3-9]; 3.1 §3.1"""
        client = await open_raw(version)

        client.send(Connect(version=version, client_id="", clean_start=clean_start))

        await client.expect(b"\x20\x02\x00\x02")
        await client.expect_end()

    async def test_more_connections_than_allowed_are_closed_at_once_by_the_gateway(
        self, serve: Serve, raw: OpenRaw, open_raw: OpenRaw
    ) -> None:
        small = await serve(AcceptEverything(), max_connections=1)
        first = await raw("first", to=small)

        second = await open_raw(to=small)

        await second.expect_end()
        await first.expect_nothing_more()
