"""What is fuzzed: the codec, and a broker with several connections. Each target takes bytes, and raises for a fault.

The same targets run in two ways: with Hypothesis, shortly, among the tests (test_mqtt_fuzz.py), and guided by coverage,
as long as one likes (`make fuzz`, run.py). All that a target does is decided by its bytes, so what is found is found
again.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from protocols.asgi import Event
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.errors import MqttError
from protocols.mqtt.codec.packets import (
    Auth,
    ConnAck,
    Connect,
    Packet,
    PingReq,
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
from protocols.mqtt.connection import MAX_HELD_BYTES, State
from protocols.mqtt.inbound_publishes import MAX_PENDING_BYTES
from protocols.mqtt.options import BrokerOptions, MqttOptions
from protocols.mqtt.trace import Tap, Trace
from tests.unit.protocols.mqtt.harness import Client, World

MAX_PACKET_BYTES: Final = 2_048
VERSIONS: Final = (3, 4, 5)


class Choices:
    """Decisions, read from bytes; when those are used up, the first of each choice."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def below(self, limit: int) -> int:
        """A number from 0 to `limit` - 1; `limit` is at most 256."""
        position = self._position
        self._position = position + 1
        return self._data[position] % limit if position < len(self._data) else 0

    def one_of(self, choices: Any) -> Any:
        return choices[self.below(len(choices))]

    def flag(self) -> bool:
        return bool(self.below(2))

    def take(self) -> bytes:
        """As many bytes as the next one says."""
        size = self.below(256)
        start = self._position
        self._position = start + size
        return self._data[start : start + size]


# -- the codec --------------------------------------------------------------------------------------------------------


def codec(data: bytes) -> None:
    """Reads a stream in one piece and in many: the same packets, the same end; what was read can be written again."""
    choices = Choices(data)
    version = choices.one_of((None, *VERSIONS))
    size = choices.below(16) + 1
    stream = data[2:]

    whole, fault, seen_as = _read([stream], version)
    parts, fault_in_parts, _ = _read([stream[at : at + size] for at in range(0, len(stream), size)], version)

    assert repr(parts) == repr(whole)  # by their looks: a property that is not a number is unequal to itself
    assert fault_in_parts == fault
    for packet in whole:
        if seen_as is not None and not (isinstance(packet, Connect) and version is not None):
            # A second CONNECT may be of another version: whether there may be a second one is not the codec's to say.
            written = encode(packet, packet.version if isinstance(packet, Connect) else seen_as)
            again, fault, _ = _read([written], None if isinstance(packet, Connect) else seen_as)
            assert (again, fault) == ([packet], None), (packet, written)


def _read(pieces: list[bytes], version: int | None) -> tuple[list[Packet], tuple[str, int] | None, int | None]:
    decoder = Decoder(max_packet_bytes=MAX_PACKET_BYTES, version=version)
    packets: list[Packet] = []
    try:
        for piece in pieces:
            packets.extend(decoder.decode(piece))
            assert len(decoder._rest) <= MAX_PACKET_BYTES
    except MqttError as error:
        return packets, (type(error).__name__, error.reason_code), decoder.version
    return packets, None, decoder.version


# -- connections ------------------------------------------------------------------------------------------------------

OPTIONS: Final = MqttOptions(
    allow_anonymous=True,
    max_packet_bytes=MAX_PACKET_BYTES,
    receive_maximum=4,
    max_inflight=3,
    max_queued_messages=4,
    max_queued_bytes=400,
    max_subscriptions=4,
    max_topic_aliases=2,
    max_session_expiry_s=100,
)
LIMITS: Final = BrokerOptions(max_topic_levels=6, max_sessions=4, max_retained_messages=3, max_retained_bytes=300)
TOPICS: Final = ("a", "a/b", "a/b/c", "", "$SYS/x", "é/" * 8, "t" * 200)
FILTERS: Final = ("a", "#", "+/b", "a/#", "$share/g/a", "$share/g/#", "$SYS/#", "a/#/b", "", "$share//a", "x/" * 9)
CODES: Final = (0, 0x10, 0x80, 0x87, 0x97, 0x99, 0xFF)
MAX_STEPS: Final = 200


class FuzzedClient(Client):
    """A connection, its application, and somebody who reads what it says, whatever that is."""

    world: "FuzzedWorld"

    def __init__(self, world: "FuzzedWorld") -> None:
        super().__init__(world, 4, OPTIONS)
        self.decoder: Decoder | None = None
        """Made when the version is known."""
        self.method: str | None = None

    def flush(self) -> None:
        self.take_output()

    def feed(self, data: bytes) -> None:
        connection = self.connection
        if connection.congested or len(self.events) > 64:  # as the server does, it is not read
            return
        self.events += connection.receive(data, self.world.now)

    def take_output(self) -> None:
        """It is to be valid, and to end when the connection does."""
        connection = self.connection
        if not connection.writer.output:
            return
        data = connection.writer.take_output()
        if self.decoder is None:
            self.decoder = Decoder(max_packet_bytes=1 << 20, version=connection.writer.version or 4)
            if not connection.writer.version:
                return  # a refusal for somebody who speaks another version
        for packet in self.decoder.decode(data):
            assert not isinstance(packet, (Connect, Subscribe, Unsubscribe)), packet
            if isinstance(packet, Publish):
                self.world.delivered += 1

    def check(self) -> None:
        """What bounds its memory."""
        connection = self.connection
        assert len(connection._held) <= MAX_HELD_BYTES
        if connection.state is State.CONNECTED:
            assert len(connection._decoder._rest) <= MAX_PACKET_BYTES
        if (publishes := connection.publishes) is not None:
            assert 0 <= publishes._pending_bytes <= MAX_PENDING_BYTES + 64 * MAX_PACKET_BYTES
            if not publishes._pending:
                assert publishes._pending_bytes == 0
        assert sum(event["type"] == "mqtt.retained" for event in self.events) <= 1
        if connection.state is State.CLOSED:
            assert connection.end is not None


class FuzzedWorld(World):
    """A broker, a few connections, and the time."""

    def __init__(self) -> None:
        super().__init__(OPTIONS, limits=LIMITS)
        self.delivered = 0
        self.clients = [FuzzedClient(self) for _ in range(3)]

    def step(self, choices: Choices) -> None:
        index = choices.below(len(self.clients))
        action = choices.one_of(ACTIONS)
        action(self, index, self.clients[index], choices)
        for client in self.clients:
            client.take_output()
        self.check()

    def check(self) -> None:
        """What is bounded is within its bounds, and what belongs together is together."""
        broker = self.broker
        sessions = list(broker.sessions.values())
        assert len(sessions) <= LIMITS.max_sessions
        assert len(broker.retained) <= LIMITS.max_retained_messages
        assert 0 <= broker.retained.size_bytes <= LIMITS.max_retained_bytes
        assert len(broker._due) <= 4 * (LIMITS.max_sessions + len(self.clients)) + 64
        subscribed = 0
        for session in sessions:
            subscribed += sum(not name.startswith("$share/") for name in session.subscriptions)
            assert len(session.subscriptions) <= OPTIONS.max_subscriptions
            assert session.outbox.queued <= OPTIONS.max_queued_messages + 2 * LIMITS.max_retained_messages + 64
            assert 0 <= session.outbox.queued_bytes <= OPTIONS.max_queued_bytes
            assert session.outbox.unacknowledged <= OPTIONS.max_inflight
            if session.connection is not None:
                assert any(client.connection is session.connection for client in self.clients)
        assert broker.subscription_count == subscribed
        for client in self.clients:
            client.check()


# -- what can happen --------------------------------------------------------------------------------------------------


def send_bytes(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    client.feed(choices.take())


def send_packet(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    """A packet that may come now, mostly; in pieces, mostly whole."""
    connection = client.connection
    if connection.state is State.CLOSED:
        connection_ends(world, index, client, choices)
        client = world.clients[index]
    if client.connection.state is State.CONNECTING:
        version, make = choices.one_of(VERSIONS), connect
    elif client.connection.state is State.AUTHENTICATING:
        version, make = client.connection.writer.version, authenticate
    else:
        version, make = client.connection.writer.version, choices.one_of(PACKETS)
    if choices.below(32) == 31:
        make = choices.one_of((connect, stray))
    try:
        data = encode(make(choices, version), version)
    except MqttError:
        return
    split = choices.below(256)
    client.feed(data[:split])
    if split < len(data) and choices.below(16) != 15:
        client.feed(data[split:])


def connect(choices: Choices, version: int) -> Packet:
    will = None
    if choices.flag():
        properties = {"will_delay_interval": choices.below(4)} if version == 5 and choices.flag() else {}
        will = Will(topic=choices.one_of(TOPICS), payload=b"gone", qos=choices.below(3), properties=properties)
    properties = {}
    if version == 5:
        properties = {
            "session_expiry_interval": choices.below(4) * 20,
            "receive_maximum": choices.below(4) + 1,
            "maximum_packet_size": choices.one_of((2_000, 2_000, 300, 20, 5)),
            "topic_alias_maximum": choices.below(4),
        }
        if choices.below(8) == 7:
            properties["authentication_method"] = "ANY"
    return Connect(
        version=version,
        client_id=choices.one_of(("one", "two", "three", "", "four", "five")),
        clean_start=choices.flag(),
        keep_alive_s=choices.below(3) * 10,
        will=will,
        properties=properties,
    )


def publish(choices: Choices, version: int) -> Packet:
    qos = choices.below(3)
    properties: dict[str, Any] = {}
    if version == 5 and choices.flag():
        properties["topic_alias"] = choices.below(4)
    if version == 5 and choices.flag():
        properties["message_expiry_interval"] = choices.below(3)
    return Publish(
        topic=choices.one_of(TOPICS),
        payload=choices.one_of((b"", b"x", b"y" * 150, b"z" * 1_500)),
        qos=qos,
        retain=choices.flag(),
        dup=bool(qos) and choices.flag(),
        packet_id=choices.below(6) + 1 if qos else 0,
        properties=properties,
    )


def subscribe(choices: Choices, version: int) -> Packet:
    subscriptions = tuple(
        Subscription(
            topic_filter=choices.one_of(FILTERS),
            qos=choices.below(3),
            no_local=version == 5 and choices.below(4) == 3,
            retain_handling=choices.below(3) if version == 5 else 0,
        )
        for _ in range(choices.below(3) + 1)
    )
    properties = {"subscription_identifier": choices.below(3) + 1} if version == 5 and choices.flag() else {}
    return Subscribe(packet_id=choices.below(3) + 1, subscriptions=subscriptions, properties=properties)


def unsubscribe(choices: Choices, version: int) -> Packet:
    filters = tuple(choices.one_of(FILTERS) for _ in range(choices.below(3) + 1))
    return Unsubscribe(packet_id=choices.below(3) + 1, topic_filters=filters)


def answer(choices: Choices, version: int) -> Packet:
    code = choices.one_of((0, 0x80, 0x92)) if version == 5 else 0
    kind = choices.one_of((PubAck, PubRec, PubComp, PubRel))
    return kind(choices.below(6) + 1, code)  # type: ignore[no-any-return]


def stray(choices: Choices, version: int) -> Packet:
    """What a client never sends."""
    packets = (
        ConnAck(),
        SubAck(packet_id=1, reason_codes=(0,)),
        UnsubAck(packet_id=1, reason_codes=(0,) * (version == 5)),
    )
    return choices.one_of(packets)  # type: ignore[no-any-return]


def authenticate(choices: Choices, version: int) -> Packet:
    if version != 5:
        return PingReq()
    properties = {"authentication_method": choices.one_of(("ANY", "OTHER")), "authentication_data": b"proof"}
    return Auth(reason_code=choices.one_of((0x18, 0x19)), properties=properties)


PACKETS: Final = (publish, subscribe, answer, publish, unsubscribe, answer, authenticate)


def application_answers(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    """The application answers one of the events that it has, not always the oldest, not always well."""
    if not client.events:
        return
    last = len(client.events) - 1
    event = client.events.pop(min(choices.below(4), last) if choices.flag() else 0)
    reason = {"reason_string": "why " * choices.below(60)} if choices.flag() else {}
    reply: Event
    match event["type"]:
        case "mqtt.connect":
            client.method = event["authentication_method"]
            reply = authorization(client, choices)
        case "mqtt.auth" if client.connection.session is None:
            reply = authorization(client, choices)
        case "mqtt.auth":
            reply = {"type": "mqtt.auth", "reason_code": choices.one_of((0x18, 0)), **reason}
        case "mqtt.publish":
            code = choices.one_of(CODES)
            reply = {"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_code": code, **reason}
            if choices.below(8) == 7:
                reply["disconnect"] = True
        case "mqtt.subscribe":
            codes = [choices.one_of((0, 1, 2, 0x87)) for _ in event["subscriptions"]]
            reply = {"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes, **reason}
            reply["check_retained"] = choices.flag()
        case "mqtt.retained":
            codes = [choices.one_of((0, 0, 0x87)) for _ in event["topics"]]
            reply = {"type": "mqtt.ack", "ack_id": event["ack_id"], "reason_codes": codes, **reason}
        case "mqtt.unsubscribe":
            reply = {"type": "mqtt.ack", "ack_id": event["ack_id"], **reason}
        case _:
            return
    try:
        client.connection.send(reply, world.now)
    except RuntimeError:
        # It is too late, or not its turn, and it is told so.
        assert reply["type"] in ("mqtt.accept", "mqtt.reject", "mqtt.auth")


def authorization(client: FuzzedClient, choices: Choices) -> Event:
    match choices.below(16):
        case 15:
            return {"type": "mqtt.reject", "reason_code": 0x87}
        case 13 | 14:
            return {"type": "mqtt.auth", "data": b"prove it"}
        case 12:
            return {"type": "mqtt.accept", "authentication_method": "OTHER"}
        case _:
            return {"type": "mqtt.accept", "authentication_method": client.method}


def application_sends(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    if client.connection.state is State.CONNECTED:
        payload = b"s" * choices.below(256)
        event: Event = {"type": "mqtt.publish", "topic": "s", "payload": payload, "qos": choices.below(3)}
        client.connection.send({"type": "mqtt.close"} if choices.below(16) == 15 else event, world.now)


def program_publishes(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    topic = choices.one_of(("a", "a/b", "a/b/c", "x"))
    world.broker.publish(topic, b"p" * choices.below(256), choices.below(3), choices.flag(), now=world.now)


def time_passes(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    world.now += choices.one_of((0.5, 0.5, 1.0, 1.0, 3.0, 3.0, 30.0, 200.0))
    for each in world.clients:
        if each.connection.deadline <= world.now:
            each.connection.check(world.now, reading=choices.flag())
    world.broker.tick(world.now)


def socket_fills_or_drains(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    if client.connection.writer.writable:
        client.connection.writer.writable = False
    else:
        client.connection.resume_writing(world.now)


def connection_ends(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    """Its transport is lost, and another connection takes its place."""
    client.connection.lost(world.now)
    client.connection.writer.output.clear()
    for event in client.events[:8]:  # acknowledgements that come late still let the broker route
        if event["type"] == "mqtt.publish":
            client.connection.send({"type": "mqtt.ack", "ack_id": event["ack_id"]}, world.now)
    world.clients[index] = FuzzedClient(world)


def somebody_watches(world: FuzzedWorld, index: int, client: FuzzedClient, choices: Choices) -> None:
    connection = client.connection
    if connection.writer.tap is None and connection.writer.version and connection.end is None:
        connection.watch(Tap([Trace("one", payloads=True, clock=lambda: 0.0)], "one", ""))
    else:
        connection.watch(None)


ACTIONS: Final = (
    *(send_packet, application_answers) * 6,
    application_sends,
    program_publishes,
    time_passes,
    socket_fills_or_drains,
    connection_ends,
    somebody_watches,
    send_bytes,
)


def connections(data: bytes) -> None:
    """Whatever clients, applications and time do, in whatever order: nothing but what the contract says."""
    world, choices = FuzzedWorld(), Choices(data)
    for _ in range(MAX_STEPS):
        if not choices:
            break
        world.step(choices)
    for client in world.clients:
        client.connection.shut_down(world.now)
        client.take_output()
        assert client.connection.end is not None
    world.check()
    world.now += 1_000
    world.broker.tick(world.now)
    assert not world.broker.sessions


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {"codec": codec, "connections": connections}
