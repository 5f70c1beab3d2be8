"""At most one log line per interval, and how many were left out."""

from protocols.log_limit import LogLimit, LogLimits


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line_may_be_logged_once_per_interval_and_says_how_many_were_not() -> None:
    clock = Clock()
    limit = LogLimit(10, clock)

    assert limit.take() == 0
    assert [limit.take(), limit.take()] == [None, None]
    clock.now = 10
    assert limit.take() == 2
    clock.now = 20
    assert limit.take() == 0


def test_keys_do_not_hide_each_other() -> None:
    limits = LogLimits(10, clock=Clock())

    assert [limits.take("a"), limits.take("b"), limits.take("a")] == [0, 0, None]


def test_the_keys_are_bounded_and_the_one_used_least_recently_is_forgotten() -> None:
    limits = LogLimits(10, size=2, clock=Clock())
    for key in ("a", "b", "a", "c"):
        limits.take(key)

    assert limits.take("a") is None
    assert limits.take("b") == 0
