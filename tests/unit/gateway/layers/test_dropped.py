"""The log of dropped messages: gateway.layers.dropped."""

import logging

import pytest

from gateway.layers.dropped import DropLog


class TestDropLog:
    def test_drops_are_logged_once_per_interval_with_their_numbers(self, caplog: pytest.LogCaptureFixture) -> None:
        now = 0.0
        drops = DropLog(interval_s=10, clock=lambda: now)
        for _ in range(100):
            drops.add("full", "chat")
        now = 10.0
        with caplog.at_level(logging.WARNING):
            drops.add("expired", "other", 2)
            drops.add("gone", "not logged")

        assert [record.getMessage() for record in caplog.records] == [
            "messages dropped: 1 full; the last for chat",
            "messages dropped: 99 full, 2 expired; the last for other",
        ]
