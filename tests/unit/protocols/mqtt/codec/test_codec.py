"""Every packet of every version, byte by byte, whole and split; every rule that refuses one."""

from collections.abc import Iterable

import pytest

from protocols.mqtt.codec.decoder import Decoder, encode, encode_success, prepare_publish
from protocols.mqtt.codec.errors import (
    EncodeError,
    MalformedPacketError,
    MqttError,
    PacketTooLargeError,
    ProtocolError,
    UnsupportedProtocolVersionError,
)
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PubAck,
    Publish,
    PubRec,
    PubRel,
    ReasonCode,
    SubAck,
    Subscribe,
    Unsubscribe,
)
from tests.unit.protocols.mqtt.codec.vectors import INVALID, MAX_PACKET_BYTES, READ_ONLY, VALID, InvalidVector, Vector


def name_of(vector: Vector | InvalidVector) -> str:
    return f"{vector.name} ({vector.version})".replace(" ", "-")


def decoder(version: int | None = None, max_packet_bytes: int = MAX_PACKET_BYTES) -> Decoder:
    return Decoder(max_packet_bytes=max_packet_bytes, version=version)


def one_byte_at_a_time(decoder: Decoder, data: bytes) -> Iterable[Packet]:
    for index in range(len(data)):
        yield from decoder.decode(data[index : index + 1])


class TestVectors:
    @pytest.mark.mqtt("MQTT5-3.1.3-1", "MQTT5-3.3.2-1", "MQTT3-3.1.3-1", "MQTT3-3.3.2-1")
    @pytest.mark.parametrize("vector", VALID + READ_ONLY, ids=name_of)
    def test_bytes_become_the_packet(self, vector: Vector) -> None:
        assert list(decoder(vector.version).decode(vector.data)) == [vector.packet]

    @pytest.mark.parametrize("vector", VALID + READ_ONLY, ids=name_of)
    def test_bytes_that_come_one_at_a_time_become_the_packet(self, vector: Vector) -> None:
        assert list(one_byte_at_a_time(decoder(vector.version), vector.data * 2)) == [vector.packet] * 2

    @pytest.mark.mqtt("MQTT5-3.2.2-1", "MQTT5-2.2.2-1", "MQTT5-1.5.5-1")
    @pytest.mark.parametrize("vector", VALID, ids=name_of)
    def test_the_packet_becomes_the_bytes(self, vector: Vector) -> None:
        assert encode(vector.packet, vector.version) == vector.data

    @pytest.mark.parametrize("vector", INVALID, ids=name_of)
    def test_bytes_are_refused_with_the_reason(self, vector: InvalidVector) -> None:
        with pytest.raises(vector.error) as caught:
            list(decoder(vector.version).decode(vector.data))

        assert type(caught.value) is vector.error
        assert caught.value.reason_code == vector.reason_code

    @pytest.mark.parametrize("vector", INVALID, ids=name_of)
    def test_bytes_that_come_one_at_a_time_are_refused_with_the_reason(self, vector: InvalidVector) -> None:
        with pytest.raises(vector.error) as caught:
            list(one_byte_at_a_time(decoder(vector.version), vector.data))

        assert caught.value.reason_code == vector.reason_code

    @pytest.mark.parametrize("vector", VALID, ids=name_of)
    def test_a_packet_cut_short_is_malformed_or_another_packet(self, vector: Vector) -> None:
        """A remaining length that is too small leaves fields out: nothing else than an MqttError may come of it."""
        if vector.data[1] > 0x7F:
            return
        for length in range(vector.data[1]):
            data = vector.data[:1] + bytes((length,)) + vector.data[2 : 2 + length]
            try:
                packets = list(decoder(vector.version).decode(data))
            except MqttError:
                continue
            assert [type(packet) for packet in packets] == [type(vector.packet)]


class TestStream:
    def test_many_packets_in_one_read_come_in_order(self) -> None:
        of_3_1_1 = [vector for vector in VALID if vector.version == 4]

        packets = list(decoder(4).decode(b"".join(vector.data for vector in of_3_1_1)))

        assert packets == [vector.packet for vector in of_3_1_1]

    def test_a_read_may_end_anywhere(self) -> None:
        of_5_0 = [vector for vector in VALID if vector.version == 5]
        data = b"".join(vector.data for vector in of_5_0)

        for split in range(len(data)):
            stream = decoder(5)
            packets = [*stream.decode(data[:split]), *stream.decode(data[split:])]
            assert packets == [vector.packet for vector in of_5_0]

    def test_an_empty_read_changes_nothing(self) -> None:
        stream = decoder(4)

        assert list(stream.decode(b"\xc0")) == []
        assert list(stream.decode(b"")) == []
        assert list(stream.decode(b"\x00")) == [PingReq()]

    def test_packets_before_a_malformed_one_are_delivered_first(self) -> None:
        packets = decoder(4).decode(b"\xc0\x00\x40\x02\x00\x01\xc1\x00")

        assert next(packets) == PingReq()
        assert next(packets) == PubAck(1)
        with pytest.raises(MalformedPacketError):
            next(packets)

    def test_after_an_error_every_call_raises_it_again(self) -> None:
        stream = decoder(4)
        with pytest.raises(MalformedPacketError):
            list(stream.decode(b"\xc1\x00"))

        with pytest.raises(MalformedPacketError):
            list(stream.decode(b"\xc0\x00"))

    def test_packets_that_were_not_taken_come_with_the_next_call(self) -> None:
        stream = decoder(4)

        for packet in stream.decode(b"\xc0\x00\x40\x02\x00\x01\x30\x03\x00"):
            assert packet == PingReq()
            break

        assert list(stream.decode(b"\x01a")) == [PubAck(1), Publish(topic="a")]

    def test_a_large_packet_in_many_reads_is_kept_without_decoding_it_again(self) -> None:
        packet = Publish(topic="a", payload=b"x" * 1_000_000)
        data = encode(packet, 5)
        stream = decoder(5, max_packet_bytes=2_000_000)

        for start in range(0, len(data) - 1, 100):
            assert list(stream.decode(data[start : min(start + 100, len(data) - 1)])) == []

        assert list(stream.decode(data[-1:] + b"\xc0\x00")) == [packet, PingReq()]

    def test_the_size_limit_counts_the_whole_packet(self) -> None:
        """[MQTT5-3.1.2.11.4]"""
        data = b"\x30\x06\x00\x01axxx"

        assert len(list(decoder(4, max_packet_bytes=8).decode(data))) == 1
        with pytest.raises(PacketTooLargeError):
            list(decoder(4, max_packet_bytes=7).decode(data))

    def test_a_topic_longer_than_those_remembered_is_checked_too(self) -> None:
        topic = "a" * 300

        assert list(decoder(4).decode(encode(Publish(topic=topic), 4))) == [Publish(topic=topic)]
        with pytest.raises(MalformedPacketError):
            list(decoder(4).decode(encode(Publish(topic=topic + "#"), 4)))


class TestVersion:
    @pytest.mark.parametrize("vector", [vector for vector in VALID if isinstance(vector.packet, Connect)], ids=name_of)
    def test_a_connect_sets_the_version_of_the_stream(self, vector: Vector) -> None:
        stream = decoder()

        packets = list(stream.decode(vector.data + b"\xc0\x00"))

        assert packets == [vector.packet, PingReq()]
        assert stream.version == vector.version

    def test_a_packet_in_the_same_read_as_the_connect_is_read_in_its_version(self) -> None:
        connect = encode(Connect(version=5, client_id="c"), 5)

        assert list(decoder().decode(connect + b"\x30\x05\x00\x01a\x00x"))[1] == Publish(topic="a", payload=b"x")

    @pytest.mark.mqtt("MQTT5-3.1.2-3")
    def test_a_connect_that_is_wrong_behind_its_level_leaves_the_version_for_the_answer(self) -> None:
        stream = decoder()
        with pytest.raises(MalformedPacketError):
            list(stream.decode(b"\x10\x0d\x00\x04MQTT\x05\x03\x00\x00\x00\x00\x00"))

        assert stream.version == 5

    def test_a_second_connect_does_not_change_the_version(self) -> None:
        stream = decoder()
        first, second = encode(Connect(version=5), 5), encode(Connect(version=4), 4)

        assert len(list(stream.decode(first + second))) == 2
        assert stream.version == 5

    @pytest.mark.parametrize(
        ("name", "level", "properties", "answer"),
        [
            (b"MQTT", 0, b"", b"\x20\x02\x00\x01"),
            (b"MQTT", 3, b"", b"\x20\x02\x00\x01"),
            (b"MQTT", 6, b"", b"\x20\x02\x00\x01"),
            (b"MQTT", 6, b"\x00", b"\x20\x03\x00\x84\x00"),
            (b"MQTT", 127, b"\x03\x21\x00\x07", b"\x20\x03\x00\x84\x00"),
            (b"MQTT", 0x85, b"", b"\x20\x02\x00\x01"),
            (b"MQIsdp", 4, b"", b"\x20\x02\x00\x01"),
            (b"MQIsdp", 6, b"", b"\x20\x02\x00\x01"),
            (b"mqtt", 4, b"", b""),
            (b"AMQP", 9, b"\x00", b""),
        ],
    )
    def test_a_version_we_do_not_speak_is_answered_in_the_form_of_its_connect(
        self, name: bytes, level: int, properties: bytes, answer: bytes
    ) -> None:
        """[MQTT3-3.1.2-1] [MQTT3-3.1.2-2] [MQTT5-3.1.2-1] [MQTT5-3.1.2-2]"""
        body = len(name).to_bytes(2, "big") + name + bytes((level,)) + b"\x02\x00\x3c" + properties + b"\x00\x01c"
        with pytest.raises(UnsupportedProtocolVersionError) as caught:
            list(decoder().decode(b"\x10" + bytes((len(body),)) + body))

        assert caught.value.answer == answer


class TestOlderVersionsAreToldWhatTheyCanRead:
    @pytest.mark.parametrize(
        ("reason_code", "return_code"),
        [
            (ReasonCode.SUCCESS, 0),
            (ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, 1),
            (ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, 2),
            (ReasonCode.SERVER_UNAVAILABLE, 3),
            (ReasonCode.SERVER_BUSY, 3),
            (ReasonCode.QUOTA_EXCEEDED, 3),
            (ReasonCode.CONNECTION_RATE_EXCEEDED, 3),
            (ReasonCode.UNSPECIFIED_ERROR, 3),
            (ReasonCode.BAD_USER_NAME_OR_PASSWORD, 4),
            (ReasonCode.NOT_AUTHORIZED, 5),
            (ReasonCode.BANNED, 5),
            (ReasonCode.BAD_AUTHENTICATION_METHOD, 5),
        ],
    )
    def test_a_refusal(self, reason_code: ReasonCode, return_code: int) -> None:
        """[MQTT3-3.2.2-4]"""
        for version in (3, 4):
            assert encode(ConnAck(reason_code=reason_code), version) == bytes((0x20, 2, 0, return_code))

    def test_session_present_is_not_known_to_3_1(self) -> None:
        assert encode(ConnAck(session_present=True), 3) == b"\x20\x02\x00\x00"

    @pytest.mark.mqtt("MQTT3-3.9.3-2")
    def test_every_refusal_in_a_suback_is_0x80(self) -> None:
        """[MQTT3-3.9.3-2]"""
        packet = SubAck(packet_id=1, reason_codes=(1, ReasonCode.NOT_AUTHORIZED, ReasonCode.TOPIC_FILTER_INVALID))

        assert encode(packet, 4) == b"\x90\x05\x00\x01\x01\x80\x80"

    def test_acknowledgements_have_no_reason_and_no_properties(self) -> None:
        assert encode(PubRec(1, ReasonCode.NOT_AUTHORIZED, {"reason_string": "no"}), 4) == b"\x50\x02\x00\x01"

    def test_properties_are_left_out(self) -> None:
        assert encode(Publish(topic="a", properties={"content_type": "t"}), 4) == b"\x30\x03\x00\x01a"
        assert encode(Disconnect(reason_code=ReasonCode.SERVER_SHUTTING_DOWN), 4) == b"\xe0\x00"


class TestEncoding:
    @pytest.mark.parametrize(
        ("packet", "version"),
        [
            (Publish(topic="a" * 65_536), 4),
            (Publish(topic="a\0"), 4),
            (Publish(topic="\ud800"), 5),
            (Publish(topic="a", qos=3, packet_id=1), 5),
            (Publish(topic="a", qos=1), 5),
            (Publish(topic="a", dup=True), 5),
            (Publish(topic="a", properties={"receive_maximum": 1}), 5),
            (Publish(topic="a", properties={"colour": "red"}), 5),
            (Publish(topic="a", properties={"topic_alias": 0}), 5),
            (Publish(topic="a", properties={"topic_alias": 65_536}), 5),
            (Publish(topic="a", properties={"topic_alias": "1"}), 5),
            (Publish(topic="a", properties={"content_type": b"t"}), 5),
            (Publish(topic="a", properties={"user_property": [("a", 1)]}), 5),
            (Publish(topic="a", properties={"response_topic": "#"}), 5),
            (Publish(topic="a", properties={"message_expiry_interval": -1}), 5),
            (Publish(topic="a", properties={"payload_format_indicator": 2}), 5),
            (PubAck(0), 4),
            (PubAck(65_536), 5),
            (PubAck(1, ReasonCode.BANNED), 5),
            (PubRel(1, ReasonCode.SUCCESS, {"server_reference": "s"}), 5),
            (ConnAck(reason_code=ReasonCode.NOT_AUTHORIZED, session_present=True), 5),
            (Connect(version=4), 5),
            (Connect(version=4, password=b"p"), 4),
            (Connect(version=5, keep_alive_s=65_536), 5),
            (Subscribe(packet_id=1, subscriptions=()), 5),
            (Unsubscribe(packet_id=1, topic_filters=()), 5),
            (Auth(), 4),
        ],
        ids=repr,
    )
    def test_what_the_protocol_cannot_say_is_refused(self, packet: Packet, version: int) -> None:
        with pytest.raises(EncodeError):
            encode(packet, version)

    @pytest.mark.parametrize(
        ("packet_type", "data"),
        [
            (PacketType.PUBACK, b"\x40\x02\x12\x34"),
            (PacketType.PUBREC, b"\x50\x02\x12\x34"),
            (PacketType.PUBREL, b"\x62\x02\x12\x34"),
            (PacketType.PUBCOMP, b"\x70\x02\x12\x34"),
        ],
    )
    def test_success_is_the_same_four_bytes_in_every_version(self, packet_type: PacketType, data: bytes) -> None:
        assert encode_success(packet_type, 0x1234) == data

    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_one_encoding_of_a_publish_serves_all_receivers(self, version: int) -> None:
        prepared = prepare_publish("a/b", b"x" * 200, version=version, qos=1, retain=True)

        for packet_id, dup in [(1, False), (65_535, False), (7, True)]:
            packet = Publish(topic="a/b", payload=b"x" * 200, qos=1, retain=True, packet_id=packet_id, dup=dup)
            data = prepared.with_packet_id(packet_id, dup=dup)
            assert data == encode(packet, version)
            assert len(data) == prepared.size

    @pytest.mark.parametrize("version", [3, 4, 5])
    def test_at_qos_0_the_head_is_the_packet(self, version: int) -> None:
        prepared = prepare_publish("a", b"x", version=version)

        assert prepared.head == encode(Publish(topic="a", payload=b"x"), version)
        assert prepared.size == len(prepared.head)


def test_an_error_names_the_reason_and_no_content() -> None:
    with pytest.raises(ProtocolError, match="packet identifier 0") as caught:
        list(decoder(4).decode(b"\x32\x0b\x00\x01a\x00\x00secret"))

    assert "secret" not in str(caught.value)
