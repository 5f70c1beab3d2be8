"""A broker with clients but without sockets, tasks or a clock: tests say when it is, and what the application does."""

from typing import Any

from protocols.asgi import Event
from protocols.mqtt.broker.broker import Broker
from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import (
    ConnAck,
    Connect,
    Disconnect,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    Subscription,
)
from protocols.mqtt.connection import Connection
from protocols.mqtt.options import BrokerOptions, MqttOptions


class World:
    """A broker and the time."""

    def __init__(self, options: MqttOptions | None = None, *, limits: BrokerOptions | None = None) -> None:
        self.options = options or MqttOptions()
        self.now = 1_000.0
        self.broker = Broker(limits or BrokerOptions())

    def pass_time(self, seconds: float) -> None:
        """The clock of the server goes on, and it looks at what is due."""
        self.now += seconds
        self.broker.tick(self.now)

    def client(self, version: int = 5, options: MqttOptions | None = None) -> "Client":
        """A network connection on which nothing has been sent."""
        return Client(self, version, options or self.options)

    def connected(self, client_id: str, version: int = 5, *, owner: str = "", **connect: Any) -> "Client":
        """A client whose connection the application has accepted; its CONNACK is in `client.connack`."""
        client = self.client(version)
        client.send(Connect(version=version, client_id=client_id, **connect))
        client.answer({"type": "mqtt.accept", "owner": owner})
        packets = client.read()
        assert isinstance(packets[0], ConnAck)
        client.connack = packets[0]
        client.earlier = packets[1:]
        client.events.clear()
        return client

    def publish(self, topic: str, payload: bytes = b"", **message: Any) -> int:
        """Publishes from outside."""
        return self.broker.publish(topic, payload, now=self.now, **message)


class Client:
    """A client, the connection that serves it, and what its application has been told."""

    def __init__(self, world: World, version: int, options: MqttOptions) -> None:
        self.world = world
        self.version = version
        self.flushes = 0
        self.connection = Connection(world.broker, options, self, now=world.now)
        self.events: list[Event] = []
        self.connack = ConnAck()
        self.earlier: list[Packet] = []
        """What came right behind the CONNACK."""
        self._decoder = Decoder(max_packet_bytes=1_000_000, version=version)

    # The wire of the connection.

    def flush_soon(self) -> None:
        """Tests look at the output when they want to."""

    def flush(self) -> None:
        self.flushes += 1

    def ask(self, event: Event) -> None:
        self.events.append(event)

    # The client.

    def send(self, *packets: Packet) -> list[Event]:
        """Sends packets in one piece; returns what the application is told."""
        return self.send_bytes(b"".join(encode(packet, self.version) for packet in packets))

    def send_bytes(self, data: bytes) -> list[Event]:
        events = self.connection.receive(data, self.world.now)
        self.events += events
        return events

    def read(self) -> list[Packet]:
        """What the server has sent since the last call."""
        return list(self._decoder.decode(self.connection.writer.take_output()))

    def publishes(self) -> list[Publish]:
        """The PUBLISH packets among it."""
        return [packet for packet in self.read() if isinstance(packet, Publish)]

    def payloads(self) -> list[bytes]:
        """And their payloads."""
        return [packet.payload for packet in self.publishes()]

    def subscribe(self, *filters: str | Subscription, identifier: int | None = None, qos: int = 2) -> list[Packet]:
        """Subscribes, has the application grant it, and returns what the server sends: the SUBACK first."""
        subscriptions = tuple(
            Subscription(topic_filter=one, qos=qos) if isinstance(one, str) else one for one in filters
        )
        properties = {} if identifier is None else {"subscription_identifier": identifier}
        [event] = self.send(Subscribe(packet_id=1, subscriptions=subscriptions, properties=properties))
        self.ack(event, reason_codes=[one["qos"] for one in event["subscriptions"]])
        packets = self.read()
        assert isinstance(packets[0], SubAck)
        return packets

    def take(self) -> list[Publish]:
        """Reads publishes and acknowledges them as a client does, until nothing more comes."""
        taken: list[Publish] = []
        while packets := self.read():
            for packet in packets:
                match packet:
                    case Publish(qos=0):
                        taken.append(packet)
                    case Publish(qos=1):
                        taken.append(packet)
                        self.send(PubAck(packet.packet_id))
                    case Publish():
                        taken.append(packet)
                        self.send(PubRec(packet.packet_id))
                    case PubRel():
                        self.send(PubComp(packet.packet_id))
                    case _:
                        raise AssertionError(packet)
        return taken

    def disconnect(self, reason_code: int = 0, **properties: Any) -> None:
        self.send(Disconnect(reason_code=reason_code, properties=properties))

    def lose(self) -> None:
        """The network fails."""
        self.connection.lost(self.world.now)

    # Its application.

    def answer(self, event: Event) -> None:
        self.connection.send(event, self.world.now)

    def ack(self, event: Event, **answer: Any) -> None:
        self.answer({"type": "mqtt.ack", "ack_id": event["ack_id"], **answer})

    # How it ended.

    @property
    def reason(self) -> tuple[str, int]:
        """What the application is told of the end: (reason, reason_code)."""
        assert self.connection.end is not None
        event = self.connection.end.event()
        return event["reason"], event["reason_code"]
