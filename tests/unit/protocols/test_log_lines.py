"""How many log lines a peer can cause, and what is said of those that were left out."""

import asyncio
import logging

import pytest
from prometheus_client import REGISTRY

from protocols.log_lines import (
    LINE_INTERVAL_S,
    LINES_AT_ONCE,
    LINES_AT_ONCE_IN_ALL,
    LINES_PER_S_IN_ALL,
    SHARES,
    SUMMARY_INTERVAL_S,
    LogShares,
    PeerLog,
    RateLimitedLog,
    describe,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class TestRateLimitedLog:
    def test_a_line_is_logged_once_an_interval_and_says_how_many_were_not(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        clock = Clock()
        log = RateLimitedLog(logging.getLogger("test"), 10, clock)
        for clock.now in (0, 5, 9, 10, 20):
            log.error("away: %s", "timeout")

        assert caplog.messages == [
            "away: timeout",
            "away: timeout (2 more like it were not logged)",
            "away: timeout",
        ]

    def test_one_kind_of_line_does_not_hide_another(self, caplog: pytest.LogCaptureFixture) -> None:
        log = RateLimitedLog(logging.getLogger("test"), 10, Clock())
        for _ in range(3):
            log.warning("cannot %s", "look", kind="look")
            log.warning("cannot %s", "record", kind="record")
            log.warning("slow")

        assert caplog.messages == ["cannot look", "cannot record", "slow"]


A, B = ("192.0.2.1", 4711), ("192.0.2.2", 4711)


class TestPeerLog:
    """Lines that peers cause."""

    @pytest.fixture(autouse=True)
    def _prepare(self, caplog: pytest.LogCaptureFixture) -> None:
        self.clock = Clock()
        self.shares = LogShares(self.clock)
        self.log = PeerLog("test", self.shares)
        self.caplog = caplog
        caplog.set_level(logging.INFO)

    def lines(self) -> list[str]:
        lines = [record.getMessage() for record in self.caplog.records]
        self.caplog.clear()
        return lines

    def test_the_first_few_of_a_peer_and_kind_are_logged_and_then_one_an_interval_with_the_number_left_out(
        self,
    ) -> None:
        for _ in range(300):
            self.log.info(A, "refused %s", "x")
        assert self.lines() == ["refused x"] * LINES_AT_ONCE

        self.clock.now += LINE_INTERVAL_S
        for _ in range(300):
            self.log.info(A, "refused %s", "x")
        assert self.lines() == [f"refused x ({300 - LINES_AT_ONCE} more like it were not logged)"]

    def test_neither_another_peer_nor_another_kind_is_hidden_by_a_noisy_one(self) -> None:
        for _ in range(300):
            self.log.warning(A, "refused %s", A[0], kind="noise")
        self.lines()

        self.log.warning(B, "refused %s", B[0], kind="noise")
        self.log.warning("device/7", "refused %s", "thermo", kind="noise")
        self.log.warning(A, "closed %s", A[0])
        self.log.warning(A, "refused %s", A[0], kind="something else")

        assert self.lines() == ["refused 192.0.2.2", "refused thermo", "closed 192.0.2.1", "refused 192.0.2.1"]

    def test_the_ports_of_an_address_and_the_hosts_of_a_network_are_one_peer(self) -> None:
        for port in range(100):
            self.log.info(("192.0.2.1", port), "refused")
            self.log.info((f"2001:db8::{port:x}", 1), "refused")

        assert len(self.lines()) == 2 * LINES_AT_ONCE

    def test_many_peers_together_have_a_bound_too(self) -> None:
        def storm() -> None:
            for host in range(5_000):
                self.log.info((f"10.0.{host >> 8}.{host & 255}", 1), "refused")

        storm()
        assert len(self.lines()) == LINES_AT_ONCE_IN_ALL
        self.clock.now += 2
        storm()
        assert len(self.lines()) == 2 * LINES_PER_S_IN_ALL

    def test_what_no_line_has_told_is_summed_up_with_the_peers_that_have_most(self) -> None:
        suppressed = REGISTRY.get_sample_value("gateway_log_lines_suppressed_total") or 0
        for _ in range(300):
            self.log.info(A, "refused %s with %d", "x", 400)
        for _ in range(200):
            self.log.info(B, "closed %s", "y")
        self.lines()

        self.clock.now += SUMMARY_INTERVAL_S
        self.log.info(("192.0.2.3", 1), "refused %s with %d", "z", 400)

        line, summary = self.lines()
        assert line == "refused z with 400"
        assert summary == (
            f"{500 - 2 * LINES_AT_ONCE} lines were not logged: refused … with … ({300 - LINES_AT_ONCE}), "
            f"closed … ({200 - LINES_AT_ONCE}); most of them of 192.0.2.1 ({300 - LINES_AT_ONCE}), "
            f"192.0.2.2 ({200 - LINES_AT_ONCE})"
        )
        assert REGISTRY.get_sample_value("gateway_log_lines_suppressed_total") == suppressed + 500 - 2 * LINES_AT_ONCE

    def test_nothing_is_told_twice(self) -> None:
        for _ in range(LINES_AT_ONCE + 1):
            self.log.info(A, "refused")
        self.clock.now += SUMMARY_INTERVAL_S
        self.lines()

        self.log.info(A, "refused")

        assert self.lines() == ["refused (1 more like it were not logged)"]
        assert self.shares.summary() is None

    def test_what_was_suppressed_of_a_peer_that_is_forgotten_is_summed_up_all_the_same(self) -> None:
        for _ in range(300):
            self.log.info(A, "refused")
        for number in range(SHARES):
            self.log.info(f"device/{number}", "refused")

        self.clock.now += SUMMARY_INTERVAL_S
        summary = self.shares.summary()

        total = 300 - LINES_AT_ONCE + SHARES - (LINES_AT_ONCE_IN_ALL - LINES_AT_ONCE)
        assert summary is not None
        assert summary.startswith(
            f"{total} lines were not logged: refused ({total}); most of them of 192.0.2.1 (295), "
        )

    async def test_the_summary_comes_by_itself_where_a_loop_runs(self) -> None:
        told = asyncio.Event()
        for _ in range(300):
            self.shares.take(A, "refused")
        self.clock.now += SUMMARY_INTERVAL_S

        self.shares.tell_later(told.set)

        await told.wait()

    def test_a_line_of_a_level_that_is_not_logged_takes_no_share(self) -> None:
        self.caplog.set_level(logging.WARNING, "test")
        for _ in range(300):
            self.log.log(logging.INFO, A, "closed")
        self.caplog.set_level(logging.INFO, "test")

        self.log.log(logging.INFO, A, "closed")

        assert self.lines() == ["closed"]


class TestDescriptions:
    def test_name_the_connection_without_its_secrets(self) -> None:
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/api/v1/s3cr3t/telemetry",
            "query_string": b"token=s3cr3t",
            "client": ("192.0.2.7", 5),
        }
        assert describe(scope) == "http POST /api/v1/***/telemetry from 192.0.2.7:5"

    def test_a_client_identifier_forges_no_line(self) -> None:
        assert describe({"type": "mqtt", "client_id": "a\nforged"}) == "mqtt a\\nforged"
