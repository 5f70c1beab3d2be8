"""Runs one application instance per scope; the only copy of that plumbing, used by every wire.

Invariants, whatever ends the connection:

- the application sees each event in the order in which it came, and one disconnect event after the last of them;
- an inbox over its high-water mark stops the reading of the socket, so a slow application slows its peer and costs a
  bounded amount of memory;
- an application that does not return in time after the disconnect event is cancelled;
- an application that raises is logged once, with what it was serving, and its wire is told so that it can answer.
"""

import asyncio
from collections.abc import Callable

from protocols.asgi import Application, Event, Scope, Send
from protocols.inbox import Inbox
from protocols.log_lines import PeerLog, describe

peer_log = PeerLog("gateway.runner")


class ClientDisconnectedError(ConnectionError):
    """Raised by `send` when the client has gone: an OSError, as ASGI 2.4 asks.

    It ends applications that only send, which no disconnect event would reach. One that lets it through has ended as
    it should: the runner neither logs it nor answers for it.
    """

    def __init__(self) -> None:
        super().__init__("the client has disconnected")


class ApplicationRun:
    """One application instance at work on one scope."""

    __slots__ = ("_begun", "_close_timeout_s", "_ended", "_on_finished", "_timeout", "inbox", "scope", "task")

    def __init__(
        self,
        application: Application,
        scope: Scope,
        send: Send,
        *,
        inbox: Inbox,
        on_finished: Callable[[BaseException | None], None],
        close_timeout_s: float = 10.0,
    ) -> None:
        """Starts `application(scope, inbox.receive, send)` in a task of its own.

        `on_finished` is called exactly once, when the application has ended: with None if it returned, with the
        exception if it raised or was cancelled. The wire then answers what is still unanswered (500, 1011, 0x83).
        """
        self.inbox = inbox
        self.scope = scope
        self._on_finished = on_finished
        self._close_timeout_s = close_timeout_s
        self._timeout: asyncio.TimerHandle | None = None
        self._begun = False
        self._ended = False
        self.task = asyncio.get_running_loop().create_task(self._live(application, scope, send))

    def disconnect(self, event: Event) -> None:
        """Delivers the disconnect event, once, and gives the application `close_timeout_s` to return."""
        if self.inbox.disconnected:
            return
        self.inbox.disconnect(event)
        if not self._ended:
            loop = asyncio.get_running_loop()
            self._timeout = loop.call_later(self._close_timeout_s, self._time_out)

    def cancel(self) -> None:
        """Ends the application now."""
        if not self._begun:
            # then nothing of `_live` will run, either
            self._begun = True
            self.task.add_done_callback(lambda task: self._finished(asyncio.CancelledError()))
        self.task.cancel()

    def _time_out(self) -> None:
        peer_log.warning(
            self.scope.get("client"),
            "application did not return within %g s of the disconnect and was cancelled: %s",
            self._close_timeout_s,
            describe(self.scope),
        )
        self.cancel()

    async def _live(self, application: Application, scope: Scope, send: Send) -> None:
        """The body of the task. Reports its own end: a done-callback would cost another loop iteration."""
        self._begun = True
        try:
            await application(scope, self.inbox.receive, send)
        except asyncio.CancelledError as cancellation:
            self._finished(cancellation)
            raise
        except ClientDisconnectedError as error:
            self._finished(error)
        except Exception as error:  # here, and only here, an application is run
            message = "application raised while serving %s"
            peer_log.error(
                scope.get("client"), message, describe(scope), kind=message + type(error).__name__, exc_info=error
            )
            self._finished(error)
        else:
            self._finished(None)

    def _finished(self, exception: BaseException | None) -> None:
        self._ended = True
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None
        self._on_finished(exception)
