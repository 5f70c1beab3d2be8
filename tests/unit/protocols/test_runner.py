"""The application runner: its end is reported once, logged once and bounded in time."""

import asyncio
from typing import Any

import pytest

from protocols.asgi import Event, Receive, Scope, Send
from protocols.inbox import Inbox
from protocols.runner import ApplicationRun, ClientDisconnectedError


async def passes(count: int = 6) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def nothing(event: Event) -> None:
    pass


def run(application: Any, **options: Any) -> tuple[ApplicationRun, list[BaseException | None]]:
    ends: list[BaseException | None] = []
    scope = {"type": "http", "path": "/"}
    return ApplicationRun(application, scope, nothing, inbox=Inbox(), on_finished=ends.append, **options), ends


class TestApplicationRun:
    async def test_a_run_tells_of_an_application_that_returned(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()

        it, ends = run(application)
        it.inbox.feed({"type": "a"}, 0)
        await passes()

        assert ends == [None]

    async def test_a_run_logs_once_what_an_application_raised_and_tells_of_it(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            raise LookupError("oh")

        _, ends = run(application)
        await passes()

        assert [type(end) for end in ends] == [LookupError]
        assert [record.getMessage() for record in caplog.records] == ["application raised while serving http /"]

    async def test_an_application_that_is_not_one_fails_like_one_that_raises(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, ends = run(lambda scope, receive, send: None)
        await passes()

        assert [type(end) for end in ends] == [TypeError]

    async def test_sending_to_a_client_that_left_is_no_error(self, caplog: pytest.LogCaptureFixture) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            raise ClientDisconnectedError

        _, ends = run(application)
        await passes()

        assert [type(end) for end in ends] == [ClientDisconnectedError]
        assert not caplog.records

    async def test_cancels_an_application_that_does_not_return_after_the_disconnect(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await asyncio.Event().wait()

        it, ends = run(application, close_timeout_s=0)
        await passes()
        it.disconnect({"type": "http.disconnect"})
        await passes(20)

        assert [type(end) for end in ends] == [asyncio.CancelledError]
        assert it.task.cancelled()
        assert "did not return within 0 s" in caplog.text

    async def test_a_run_cancelled_before_it_began_is_told_of_once(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            pytest.fail("it must not run")

        it, ends = run(application)
        it.cancel()
        it.cancel()
        await passes()

        assert [type(end) for end in ends] == [asyncio.CancelledError]

    async def test_a_disconnect_told_at_its_end_is_not_timed(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            pass

        def tell(exception: BaseException | None) -> None:
            it.disconnect({"type": "http.disconnect"})

        it = ApplicationRun(application, {"type": "http"}, nothing, inbox=Inbox(), on_finished=tell)
        await passes()

        assert it.inbox.disconnected
        assert it._timeout is None

    async def test_the_time_to_end_is_over_when_the_application_returns(self) -> None:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()

        it, ends = run(application)
        it.disconnect({"type": "http.disconnect"})
        await passes()

        assert ends == [None]
        assert it._timeout is None
