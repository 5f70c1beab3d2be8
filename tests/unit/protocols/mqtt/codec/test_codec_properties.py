"""For all packets: what is written is read again. For all bytes: nothing but an MqttError comes of them."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from protocols.mqtt.codec.decoder import Decoder, encode, prepare_publish
from protocols.mqtt.codec.errors import MqttError
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PacketType,
    PingReq,
    PingResp,
    Properties,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
    UnsubAck,
    Unsubscribe,
    Will,
)
from protocols.mqtt.codec.properties import PROPERTIES, WILL, Property, ValueType
from protocols.mqtt.codec.reason_codes import REASON_CODES
from tests.unit.protocols.mqtt.codec.vectors import INVALID, VALID

MAX_PACKET_BYTES = 1_000_000

versions = st.sampled_from((3, 4, 5))
packet_ids = st.integers(1, 65_535)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
names = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cn")), max_size=20)
topic_filters = names.filter(bool)
topic_names = names.map(lambda text: text.replace("+", "").replace("#", "")).filter(bool)
payloads = st.binary(max_size=200)


def values(row: Property) -> SearchStrategy[object]:
    if row.name == "response_topic":
        return topic_names
    match row.kind:
        case ValueType.STRING:
            return texts
        case ValueType.STRING_PAIR:
            return st.tuples(texts, texts)
        case ValueType.BINARY:
            return payloads
    return st.integers(row.minimum, row.maximum)


def properties(carrier: int, *required: str) -> SearchStrategy[Properties]:
    possible = {
        row.name: st.lists(values(row), min_size=1, max_size=3) if carrier in row.repeated_in else values(row)
        for row in PROPERTIES
        if carrier in row.carriers
    }
    optional = {name: strategy for name, strategy in possible.items() if name not in required}
    return st.fixed_dictionaries({name: possible[name] for name in required}, optional=optional)


def reason_codes(packet_type: PacketType, version: int) -> SearchStrategy[int]:
    before_5 = {
        PacketType.CONNACK: (0, 0x84, 0x85, 0x86, 0x87, 0x88),
        PacketType.SUBACK: (0, 1, 2, 0x80),
    }
    codes = REASON_CODES[packet_type] if version == 5 else before_5.get(packet_type, (0,))
    return st.sampled_from(sorted(codes))


@st.composite
def connects(draw: st.DrawFn, version: int) -> Connect:
    def only_5(carrier: int) -> Properties:
        return draw(properties(carrier)) if version == 5 else {}

    will = None
    if draw(st.booleans()):
        will = Will(
            topic=draw(topic_names),
            payload=draw(payloads),
            qos=draw(st.integers(0, 2)),
            retain=draw(st.booleans()),
            properties=only_5(WILL),
        )
    connect_properties = only_5(PacketType.CONNECT)
    if "authentication_method" not in connect_properties:
        connect_properties.pop("authentication_data", None)
    username = draw(st.none() | names)
    return Connect(
        version=version,
        client_id=draw(names),
        clean_start=draw(st.booleans()),
        keep_alive_s=draw(st.integers(0, 65_535)),
        username=username,
        password=draw(st.none() | payloads) if version == 5 or username is not None else None,
        will=will,
        properties=connect_properties,
        bridge=version != 5 and draw(st.booleans()),
    )


@st.composite
def packets(draw: st.DrawFn, version: int) -> Packet:
    def only_5(packet_type: PacketType, *required: str) -> Properties:
        return draw(properties(packet_type, *required)) if version == 5 else {}

    def codes(packet_type: PacketType) -> tuple[int, ...]:
        return tuple(draw(st.lists(reason_codes(packet_type, version), min_size=1, max_size=4)))

    packet_type = draw(st.sampled_from(PacketType))
    match packet_type:
        case PacketType.CONNECT:
            return draw(connects(version))
        case PacketType.CONNACK:
            code = draw(reason_codes(packet_type, version))
            present = version != 3 and not code and draw(st.booleans())
            return ConnAck(reason_code=code, session_present=present, properties=only_5(packet_type))
        case PacketType.PUBLISH:
            qos = draw(st.integers(0, 2))
            return Publish(
                topic=draw(topic_names),
                payload=draw(payloads),
                qos=qos,
                retain=draw(st.booleans()),
                dup=qos > 0 and draw(st.booleans()),
                packet_id=draw(packet_ids) if qos else 0,
                properties=only_5(packet_type),
            )
        case PacketType.PUBACK | PacketType.PUBREC | PacketType.PUBREL | PacketType.PUBCOMP:
            answer = (PubAck, PubRec, PubRel, PubComp)[packet_type - PacketType.PUBACK]
            return answer(draw(packet_ids), draw(reason_codes(packet_type, version)), only_5(packet_type))
        case PacketType.SUBSCRIBE:
            subscriptions = draw(st.lists(subscriptions_of(version), min_size=1, max_size=4))
            return Subscribe(
                packet_id=draw(packet_ids), subscriptions=tuple(subscriptions), properties=only_5(packet_type)
            )
        case PacketType.SUBACK:
            return SubAck(packet_id=draw(packet_ids), reason_codes=codes(packet_type), properties=only_5(packet_type))
        case PacketType.UNSUBSCRIBE:
            filters = draw(st.lists(topic_filters, min_size=1, max_size=4))
            return Unsubscribe(packet_id=draw(packet_ids), topic_filters=tuple(filters), properties=only_5(packet_type))
        case PacketType.UNSUBACK:
            reasons = codes(packet_type) if version == 5 else ()
            return UnsubAck(packet_id=draw(packet_ids), reason_codes=reasons, properties=only_5(packet_type))
        case PacketType.PINGREQ:
            return PingReq()
        case PacketType.PINGRESP:
            return PingResp()
        case PacketType.DISCONNECT:
            return Disconnect(reason_code=draw(reason_codes(packet_type, version)), properties=only_5(packet_type))
        case _:
            if version != 5:
                return PingReq()
            return Auth(
                reason_code=draw(reason_codes(packet_type, version)),
                properties=only_5(packet_type, "authentication_method"),
            )


def subscriptions_of(version: int) -> SearchStrategy[Subscription]:
    if version != 5:
        return st.builds(Subscription, topic_filter=topic_filters, qos=st.integers(0, 2))
    return st.builds(
        Subscription,
        topic_filter=topic_filters,
        qos=st.integers(0, 2),
        no_local=st.booleans(),
        retain_as_published=st.booleans(),
        retain_handling=st.integers(0, 2),
    )


streams = versions.flatmap(lambda version: st.tuples(st.just(version), st.lists(packets(version), max_size=5)))


@given(streams, st.data())
def test_what_is_written_is_read_again_however_it_is_split(
    stream: tuple[int, list[Packet]], data: st.DataObject
) -> None:
    version, sent = stream
    wire = b"".join(encode(packet, version) for packet in sent)
    splits = data.draw(st.lists(st.integers(0, len(wire)), max_size=5).map(sorted))

    decoder = Decoder(max_packet_bytes=MAX_PACKET_BYTES, version=version)
    received: list[Packet] = []
    for start, end in zip([0, *splits], [*splits, len(wire)], strict=True):
        received += decoder.decode(wire[start:end])

    assert received == sent


@given(versions, topic_names, payloads, st.integers(1, 2), packet_ids, st.booleans(), properties(PacketType.PUBLISH))
def test_a_publish_prepared_once_is_the_publish_for_every_packet_id(
    version: int, topic: str, payload: bytes, qos: int, packet_id: int, dup: bool, props: Properties
) -> None:
    prepared = prepare_publish(topic, payload, version=version, qos=qos, properties=props)

    packet = Publish(topic=topic, payload=payload, qos=qos, packet_id=packet_id, dup=dup, properties=props)
    assert prepared.with_packet_id(packet_id, dup=dup) == encode(packet, version)


def decode_until_error(data: bytes, version: int | None) -> list[Packet]:
    """The packets, with none but the documented errors let pass."""
    received: list[Packet] = []
    try:
        for packet in Decoder(max_packet_bytes=MAX_PACKET_BYTES, version=version).decode(data):
            received.append(packet)  # noqa: PERF402 - those before an error count
    except MqttError:
        pass
    return received


@given(st.binary(max_size=100), st.sampled_from((None, 3, 4, 5)))
def test_random_bytes_raise_nothing_but_an_mqtt_error(data: bytes, version: int | None) -> None:
    decode_until_error(data, version)


DAMAGEABLE = [*((vector.version, vector.data) for vector in VALID), *((each.version, each.data) for each in INVALID)]


@given(st.sampled_from(DAMAGEABLE), st.data())
def test_a_damaged_packet_raises_nothing_but_an_mqtt_error(
    vector: tuple[int | None, bytes], data: st.DataObject
) -> None:
    version, wire = vector[0], bytearray(vector[1])
    for _ in range(data.draw(st.integers(1, 3))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))

    decode_until_error(bytes(wire), version)


@given(st.sampled_from([(vector.version, vector.data[:1]) for vector in VALID]), st.binary(max_size=60))
def test_a_body_of_random_bytes_raises_nothing_but_an_mqtt_error(start: tuple[int, bytes], body: bytes) -> None:
    version, first = start

    decode_until_error(first + bytes((len(body),)) + body, version)


@given(st.binary(max_size=60), st.sampled_from((3, 4, 5)))
def test_what_is_read_can_be_written_and_read_again(body: bytes, version: int) -> None:
    for packet_type in range(1, 16):
        flags = 2 if packet_type in (6, 8, 10) else 0
        for packet in decode_until_error(bytes((packet_type << 4 | flags, len(body))) + body, version):
            if not isinstance(packet, Connect):
                assert decode_until_error(encode(packet, version), version) == [packet]
