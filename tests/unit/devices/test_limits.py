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

    def fail(self, *clients: tuple[str, int] | None) -> None:
        for client in clients:
            self.logins.note(client)

    def test_as_many_as_are_allowed_are_looked_at(self) -> None:
        self.fail(HERE, HERE)
        assert not self.logins.too_many(HERE)

        self.fail(HERE)
        assert self.logins.too_many(HERE)

    def test_an_address_is_looked_at_again_as_the_minute_passes(self) -> None:
        self.fail(HERE, HERE, HERE)
        self.clock.now_s += 21

        assert not self.logins.too_many(HERE)
        self.fail(HERE)
        assert self.logins.too_many(HERE)

    def test_one_address_does_not_hold_up_another(self) -> None:
        self.fail(HERE, HERE, HERE)

        assert not self.logins.too_many(("192.0.2.2", 1))
        assert not self.logins.too_many(None)

    def test_a_network_of_ipv6_counts_as_one_and_ipv4_as_itself(self) -> None:
        self.fail(
            ("2001:db8:0:1::1", 1), ("2001:db8:0:1::2", 1), ("2001:db8:0:1:ffff::", 1), *[("::ffff:192.0.2.1", 1)] * 3
        )

        assert self.logins.too_many(("2001:db8:0:1::4", 1))
        assert not self.logins.too_many(("2001:db8:0:2::1", 1))
        assert self.logins.too_many(("::ffff:192.0.2.1", 2))
        assert not self.logins.too_many(("::ffff:192.0.2.2", 2))

    def test_no_limit_is_no_limit(self) -> None:
        logins = FailedLogins(0)
        for _ in range(100):
            logins.note(HERE)

        assert not logins.too_many(HERE)


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
