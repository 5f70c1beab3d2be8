"""What bounds devices: failed logins of an address, and devices that come and go."""

from devices.limits import FailedLogins, Flapping

HERE = ("192.0.2.1", 50_000)


class Clock:
    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


class TestFailedLogins:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.logins = FailedLogins(3, clock=self.clock)

    def fail(self, *clients: tuple[str, int] | None) -> list[bool]:
        """For each, whether it is answered at once."""
        return [self.logins.note(client) for client in clients]

    def test_as_many_failed_logins_as_are_allowed_are_answered_at_once(self) -> None:
        assert self.fail(HERE, HERE, HERE, HERE) == [True, True, True, False]

    def test_more_are_as_the_minute_passes(self) -> None:
        self.fail(HERE, HERE, HERE)
        self.clock.now_s += 21

        assert self.fail(HERE, HERE) == [True, False]

    def test_one_address_does_not_hold_up_another(self) -> None:
        self.fail(HERE, HERE, HERE)

        assert self.fail(("192.0.2.2", 1), None, HERE) == [True, True, False]

    def test_a_network_of_ipv6_counts_as_one_and_ipv4_as_itself(self) -> None:
        self.fail(
            ("2001:db8:0:1::1", 1), ("2001:db8:0:1::2", 1), ("2001:db8:0:1:ffff::", 1), *[("::ffff:192.0.2.1", 1)] * 3
        )

        assert self.fail(("2001:db8:0:1::4", 1), ("2001:db8:0:2::1", 1)) == [False, True]
        assert self.fail(("::ffff:192.0.2.1", 2), ("192.0.2.1", 2), ("::ffff:192.0.2.2", 2)) == [False, False, True]

    def test_no_limit_is_no_limit(self) -> None:
        logins = FailedLogins(0)

        assert all(logins.note(HERE) for _ in range(100))


class TestFlapping:
    def setup_method(self) -> None:
        self.clock = Clock()
        self.flapping = Flapping(3, 60.0, clock=self.clock)

    def test_a_device_that_is_lost_too_often_is_kept_out_for_a_while(self) -> None:
        for _ in range(3):
            assert self.flapping.pause_s(7) == 0
            self.flapping.lost(7)

        assert self.flapping.pause_s(7) == 60
        assert self.flapping.pause_s(8) == 0
        self.clock.now_s += 61
        assert self.flapping.pause_s(7) == 0

    def test_one_that_is_lost_now_and_then_is_not(self) -> None:
        for _ in range(20):
            self.flapping.lost(7)
            self.clock.now_s += 25

        assert self.flapping.pause_s(7) == 0
