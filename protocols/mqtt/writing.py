"""The writing half of an endpoint: what its connection has for the client leaves in few writes, not before what it
promises is committed, and no faster than the client takes it; and then the transport is closed."""

import asyncio
from typing import Final

from protocols.asgi import Event
from protocols.mqtt.closing import NEVER
from protocols.mqtt.commit_gate import CommitGate
from protocols.mqtt.connection import Connection
from protocols.mqtt.reading import NOT_WRITABLE, UNCOMMITTED, Reading
from protocols.mqtt.server_state import ListenerContext

_LINGERING: Final = frozenset({"protocol_error", "application", "operator"})
"""The ends by which we interrupt the client."""


class Writing(Reading):
    """The `Wire` of its connection."""

    __slots__ = ("_answering", "_drained", "_held", "_to_settle", "abort_at")

    def __init__(self, context: ListenerContext) -> None:
        super().__init__(context)
        self.connection = Connection(
            context.server_state.broker, context.options, self, now=context.server_state.loop.time()
        )
        self.abort_at = NEVER
        """When the transport is cut, because nothing leaves it."""
        self._answering = False
        """Whether the connection is taking an acknowledgement, and what it has to write is looked at afterwards."""
        self._to_settle = False
        self._drained: asyncio.Future[None] | None = None
        self._held: CommitGate | None = None

    def settle(self) -> None:
        """Writes what there is and, if the connection has ended, sees to its end."""
        raise NotImplementedError

    def abort(self) -> None:
        """Cuts the connection."""
        raise NotImplementedError

    def ask(self, event: Event) -> None:
        """The connection has a question to the application."""
        raise NotImplementedError

    # -- what the connection asks -----------------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """The connection has output, or has ended."""
        if self._answering:
            self._to_settle = True
        else:
            self._server_state.settle_soon(self)

    def flush(self) -> None:
        """Writes what the connection has for the client, as one piece."""
        connection = self.connection
        output = connection.output
        if output:
            if self._transport.is_closing():
                connection.take_output()  # and throws it away: a transport may be closing for long
                return
            traffic = self._server_state.traffic
            traffic.sent_packets += len(output)
            data = connection.take_output()
            traffic.sent_bytes += len(data)
            if connection.required_commit:
                self._hold(data)
            else:
                self._transport.write(data)

    # -- what waits for a commit ------------------------------------------------------------------------------------

    @property
    def is_holding(self) -> bool:
        """Whether anything waits for a commit."""
        return bool(self._held)

    def _hold(self, data: bytes) -> None:
        """Writes what promises something, or what follows it, when that is committed."""
        connection, committer = self.connection, self._server_state.committer
        assert committer is not None
        if self._held is None:
            if connection.required_commit <= committer.journal.committed:
                connection.required_commit = 0
                self._transport.write(data)
                return
            if committer.is_closed:  # another process has the store: that will never be
                self.abort()
                return
            self._held = CommitGate(committer, self._write_held)
        self._held.add(connection.required_commit, data)
        if self._held.is_much:
            connection.writable = False
        if not connection.writable or committer.journal.failure is not None:
            self._stop_reading(UNCOMMITTED)

    def _write_held(self, data: bytes) -> None:
        """Writes what waited long enough. When nothing waits any more, all goes on."""
        if data and not self._transport.is_closing():
            self._transport.write(data)
        if self._held:
            return
        self._held = None
        committer = self._server_state.committer
        assert committer is not None
        if self.connection.required_commit <= committer.journal.committed:
            self.connection.required_commit = 0
        if self._ended:
            self._close_transport()
            return
        self._read_on(UNCOMMITTED)
        if not self.connection.writable and not self._unread & NOT_WRITABLE:
            self._write_on()

    def _drop_held(self) -> None:
        if self._held is not None:
            self._held.drop()
            self._held = None

    # -- what the client takes --------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client takes less than it is sent: messages for it wait in its session, and it is not read."""
        self.connection.writable = False
        if not self._ended:  # else its time to take the rest runs already
            self.abort_at = self._server_state.loop.time() + self._context.options.write_timeout_s
            self._stop_reading(NOT_WRITABLE)

    def resume_writing(self) -> None:
        """The client has taken enough."""
        if self._ended:
            return
        self.abort_at = NEVER
        self._read_on(NOT_WRITABLE)
        if self._held is None or not self._held.is_much:
            self._write_on()

    def _write_on(self) -> None:
        """Sends what waits in the session. That may be too much again: it comes last."""
        self.connection.resume_writing(self._server_state.loop.time())
        if self.connection.writable:
            self._wake_senders()

    async def _drain(self) -> None:
        """Returns when the client has taken enough, or the connection has ended."""
        while not self.connection.writable and not self._ended:
            if self._drained is None:
                self._drained = self._server_state.loop.create_future()
            await asyncio.shield(self._drained)
        if self._ended:
            await asyncio.sleep(0)  # an application that does nothing but send: others go on, and it can be cancelled

    def _wake_senders(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _close_transport(self) -> None:
        """Closes it; one that the client may still be sending on, in two steps. A socket that is closed with bytes
        unread is reset, and the reset overtakes what the client was to read: the reason why."""
        transport, end = self._transport, self.connection.end
        assert end is not None
        if end.reason not in _LINGERING or not transport.can_write_eof() or transport.is_closing():
            transport.close()
            return
        if self._unread:
            self._unread = 0
            transport.resume_reading()
        try:
            transport.write_eof()  # what comes is thrown away, until the client closes its side too
        except OSError:  # it has reset the connection, and we have not read that far
            transport.abort()
