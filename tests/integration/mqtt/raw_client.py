"""A client made of bytes: what a test needs to say exactly what goes over the wire, and what comes back."""

import asyncio
from typing import Any, Self

from protocols.mqtt.codec.decoder import Decoder, encode
from protocols.mqtt.codec.packets import ConnAck, Connect, Disconnect, Packet, SubAck, Subscribe, Subscription
from tests.support.waiting import DEADLINE_S


class RawClient:
    """One connection. It answers nothing by itself: acknowledgements are the test's."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, version: int) -> None:
        self.reader = reader
        self.writer = writer
        self.version = version

    @classmethod
    async def open(cls, address: tuple[str, int], version: int = 4, *, local_host: str | None = None) -> Self:
        """Opens the connection, from that address of this machine, and sends nothing."""
        reader, writer = await asyncio.open_connection(*address, local_addr=local_host and (local_host, 0))
        return cls(reader, writer, version)

    async def connect(self, client_id: str, **fields: Any) -> ConnAck:
        """Sends a CONNECT and returns its CONNACK; the keep alive is 0 unless given."""
        self.send(Connect(version=self.version, client_id=client_id, **fields))
        packet = await self.receive()
        assert isinstance(packet, ConnAck)
        return packet

    async def subscribe(self, topic_filter: str, qos: int = 0, *, packet_id: int = 1, **options: Any) -> int:
        """Subscribes to one filter and returns the reason code. `properties` are the packet's, the rest options."""
        properties = options.pop("properties", {})
        subscription = Subscription(topic_filter=topic_filter, qos=qos, **options)
        self.send(Subscribe(packet_id=packet_id, subscriptions=(subscription,), properties=properties))
        packet = await self.receive()
        assert isinstance(packet, SubAck), packet
        assert packet.packet_id == packet_id
        return packet.reason_codes[0]

    def send(self, *packets: Packet | bytes) -> None:
        """Writes packets, or bytes as they are."""
        for packet in packets:
            self.writer.write(packet if isinstance(packet, bytes) else encode(packet, self.version))

    async def receive(self) -> Packet:
        """The next packet."""
        packets = list(Decoder(max_packet_bytes=1 << 28, version=self.version).decode(await self.receive_bytes()))
        assert len(packets) == 1
        return packets[0]

    async def receive_bytes(self) -> bytes:
        """The bytes of the next packet."""
        async with asyncio.timeout(DEADLINE_S):
            data = await self.reader.readexactly(2)
            length = data[1] & 0x7F
            while data[-1] >= 0x80:
                data += await self.reader.readexactly(1)
                length |= (data[-1] & 0x7F) << 7 * (len(data) - 2)
            return data + await self.reader.readexactly(length)

    async def expect(self, expected: bytes) -> None:
        """Reads the next packet, which is to have exactly these bytes."""
        received = await self.receive_bytes()
        assert received == expected

    async def expect_nothing_more(self) -> None:
        """Asserts that the server has sent nothing that was not read: the answer to a ping comes next."""
        self.send(b"\xc0\x00")
        await self.expect(b"\xd0\x00")

    async def expect_disconnect(self, reason_code: int) -> None:
        """Reads a DISCONNECT with this reason code, and the end of the connection."""
        packet = await self.receive()
        assert isinstance(packet, Disconnect), packet
        assert packet.reason_code == reason_code
        await self.expect_end()

    async def expect_end(self) -> None:
        """Waits until the server closes the connection, having sent nothing that was not read."""
        async with asyncio.timeout(DEADLINE_S):
            try:
                assert await self.reader.read() == b""
            except ConnectionResetError:
                pass
        self.writer.close()

    def abort(self) -> None:
        """Cuts the connection without a DISCONNECT."""
        self.writer.transport.abort()

    async def disconnect(self) -> None:
        """Sends a DISCONNECT and waits until the server has closed."""
        self.send(b"\xe0\x00")
        await self.expect_end()
