"""Shared subscriptions [MQTT5-4.8]."""

import pytest

from protocols.mqtt.codec.packets import PubAck, Publish, Unsubscribe
from tests.unit.protocols.mqtt.harness import Client, World


class TestSharedSubscriptions:
    """[MQTT5-4.8.2]"""

    def members(self, world: World, count: int, **connect: object) -> list[Client]:
        clients = [world.connected(f"m{number}", **connect) for number in range(count)]  # type: ignore[arg-type]
        for client in clients:
            client.subscribe("$share/g/t")
        return clients

    def test_each_message_goes_to_one_member_in_turn(self) -> None:
        world = World()
        clients = self.members(world, 3)

        for number in range(6):
            assert world.publish("t", b"%d" % number) == 1

        assert [client.payloads() for client in clients] == [[b"0", b"3"], [b"1", b"4"], [b"2", b"5"]]

    def test_members_who_are_there_get_equal_parts_whoever_is_away(self) -> None:
        world = World()
        first, absent, last = self.members(world, 3, properties={"session_expiry_interval": 100})
        absent.lose()

        for number in range(6):
            world.publish("t", b"%d" % number)

        assert [client.payloads() for client in (first, last)] == [[b"0", b"2", b"4"], [b"1", b"3", b"5"]]

        world.connected("m1", clean_start=False, properties={"session_expiry_interval": 100})
        for number in range(6):
            world.publish("t", b"%d" % number)

        assert [len(client.payloads()) for client in (first, last)] == [2, 2]

    def test_a_member_that_cannot_take_more_is_passed_over(self) -> None:
        world = World()
        slow, quick = self.members(world, 2)
        slow.connection.writer.writable = False

        for number in range(3):
            world.publish("t", b"%d" % number)

        assert (slow.payloads(), quick.payloads()) == ([], [b"0", b"1", b"2"])

    def test_one_whose_receive_maximum_is_reached_too(self) -> None:
        world = World()
        slow, quick = self.members(world, 2, properties={"receive_maximum": 1})

        for number in range(3):
            world.publish("t", b"%d" % number, qos=1)
            quick.take()

        assert slow.payloads() == [b"0"]

    def test_one_that_is_away_gets_nothing_while_another_is_there(self) -> None:
        world = World()
        absent, present = self.members(world, 2, properties={"session_expiry_interval": 100})
        absent.lose()

        for _ in range(3):
            world.publish("t", qos=1)

        assert len(present.publishes()) == 3

    def test_if_all_are_away_the_message_waits_for_one(self) -> None:
        world = World()
        [absent] = self.members(world, 1, properties={"session_expiry_interval": 100})
        absent.lose()

        assert world.publish("t", b"x", qos=1) == 1

        back = world.connected("m0", clean_start=False, properties={"session_expiry_interval": 100})
        assert [packet.payload for packet in back.earlier if isinstance(packet, Publish)] == [b"x"]

    def waiting(self, world: World, qos: int, count: int = 3) -> tuple[Client, Client]:
        """A member that has got one of several messages and has not acknowledged it, and one that came only now."""
        [slow] = self.members(world, 1, properties={"session_expiry_interval": 100, "receive_maximum": 1})
        for number in range(count):
            world.publish("t", b"%d" % number, qos=qos)
        other = world.connected("other")
        other.subscribe("$share/g/t")
        assert slow.payloads() == [b"0"]
        return slow, other

    @pytest.mark.mqtt("MQTT5-3.10.4-3")
    def test_what_waits_for_a_member_that_unsubscribes_goes_to_another(self) -> None:
        world = World()
        slow, other = self.waiting(world, 1)

        [event] = slow.send(Unsubscribe(packet_id=9, topic_filters=("$share/g/t",)))
        slow.ack(event, reason_codes=[0])

        assert other.payloads() == [b"1", b"2"]
        slow.read()
        slow.send(PubAck(1))
        assert slow.read() == []

    def test_what_waits_for_one_that_goes_away_does_so_too(self) -> None:
        world = World()
        slow, other = self.waiting(world, 2)

        slow.lose()

        assert other.payloads() == [b"1", b"2"]
        back = world.connected("m0", clean_start=False, properties={"session_expiry_interval": 100})
        assert [packet.payload for packet in back.earlier if isinstance(packet, Publish)] == [b"0"]

    def test_what_waits_for_one_that_goes_away_stays_with_it_if_nobody_else_is_there(self) -> None:
        world = World()
        slow, other = self.waiting(world, 1)
        other.lose()

        slow.lose()

        back = world.connected("m0", clean_start=False, properties={"session_expiry_interval": 100})
        assert [packet.payload for packet in back.earlier if isinstance(packet, Publish)] == [b"0", b"1", b"2"]

    @pytest.mark.parametrize(("qos", "taken"), [(1, [b"0", b"1", b"2"]), (2, [b"1", b"2"])])
    @pytest.mark.mqtt("MQTT5-4.8.2-5")
    def test_when_its_session_ends_another_gets_what_it_has_not_acknowledged_at_qos_1(
        self, qos: int, taken: list[bytes]
    ) -> None:
        world = World()
        slow, other = self.waiting(world, qos)

        slow.lose()
        world.pass_time(101)

        assert sorted(other.payloads()) == taken

    def test_messages_that_have_expired_are_not_handed_over(self) -> None:
        world = World()
        [slow] = self.members(world, 1, properties={"receive_maximum": 1})
        for _ in range(2):
            world.publish("t", qos=1, properties={"message_expiry_interval": 5})
        other = world.connected("other")
        other.subscribe("$share/g/t")
        world.pass_time(6)

        slow.lose()

        assert other.payloads() == []
        assert world.broker.dropped["expired"] == 2

    def test_what_the_application_sends_to_a_member_itself_is_for_nobody_else(self) -> None:
        world = World()
        slow, other = self.waiting(world, 1, count=1)
        for number in range(2):
            slow.answer({"type": "mqtt.publish", "topic": "t", "payload": b"own %d" % number, "qos": 1})

        slow.lose()
        world.pass_time(101)

        assert other.payloads() == [b"0"]

    def test_groups_and_ordinary_subscribers_each_get_a_copy(self) -> None:
        world = World()
        self.members(world, 2)
        client = world.connected("c")
        client.subscribe("$share/other/t", "t")

        assert world.publish("t") == 3

    def test_retained_messages_are_not_sent_to_a_shared_subscription(self) -> None:
        world = World()
        world.publish("t", b"x", retain=True)

        [client] = self.members(world, 1)

        assert client.publishes() == []

    def test_the_group_ends_with_its_last_member(self) -> None:
        world = World()
        one, other = self.members(world, 2)
        one.lose()
        assert world.publish("t") == 1

        other.lose()

        assert world.publish("t") == 0
