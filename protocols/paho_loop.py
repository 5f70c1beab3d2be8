"""Paho's client, driven by the event loop.

Paho has hooks for a loop that is not its own (`loop_read`, `loop_write`, `loop_misc`), and they are used instead of its
thread: messages need not be handed from thread to thread, and a socket that is not read is all there is to
back-pressure. Only what blocks, resolving the name, connecting and the TLS handshake, runs in a thread.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho

READ_BATCH: Final = 100
"""How many messages are read before others have their turn."""
_MISC_INTERVAL_S: Final = 1.0


def _ignore() -> None:
    """Nobody wants to know."""


class PahoLoop:
    """Drives one client, for one connection. Whoever has it sets the client's callbacks, but for those of its socket,
    and adds up in `received` what `on_message` is called with."""

    def __init__(
        self, client: paho.Client, *, on_fault: Callable[[Exception], None], on_written: Callable[[], None] = _ignore
    ) -> None:
        """`on_fault` is called with what Paho lets out, as a callback has raised it, and is to end the connection;
        `on_written` when all that was published has left, in the middle of Paho's own loop."""
        self._client = client
        self._on_fault = on_fault
        self._on_written = on_written
        self._loop = asyncio.get_running_loop()
        self._fd = -1
        self._is_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self.received = 0
        self.closed: asyncio.Future[None] = self._loop.create_future()
        """Done when the socket is not driven any more."""
        client.on_socket_register_write = self._on_register_write
        client.on_socket_unregister_write = self._on_unregister_write
        client.on_socket_close = self._on_socket_close

    @property
    def is_attached(self) -> bool:
        """Whether the client has a socket that is driven."""
        return self._fd >= 0

    async def connect(self) -> None:
        """Connects to the address that `connect_async` has named. Raises OSError or ValueError."""
        await asyncio.to_thread(self._client.reconnect)
        sock = self._client.socket()
        if sock is None:
            raise ConnectionError("it closed the connection")
        self._fd = sock.fileno()
        if not self._is_paused:
            self._loop.add_reader(self._fd, self._readable)
        if self._client.want_write():
            self._loop.add_writer(self._fd, self._writable)
        self._timer = self._loop.call_later(_MISC_INTERVAL_S, self._misc)

    def pause_reading(self) -> None:
        """Leaves what comes in the socket. Longer than the keep alive, and the connection is lost."""
        if not self._is_paused:
            self._is_paused = True
            if self.is_attached:
                self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Ends that."""
        if self._is_paused:
            self._is_paused = False
            if self.is_attached:
                self._loop.add_reader(self._fd, self._readable)
                self._loop.call_soon(self._readable)  # TLS may have decrypted more than was read

    def detach(self) -> None:
        """Lets go of the socket. Idempotent."""
        if self.is_attached:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1
        if not self.closed.done():
            self.closed.set_result(None)

    def abort(self) -> None:
        """Closes the socket. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        sock = self._client.socket()
        self.detach()
        if sock is not None:
            sock.close()

    def _readable(self) -> None:
        try:
            for _ in range(READ_BATCH):
                received = self.received
                if self._is_paused or not self.is_attached or self._client.loop_read():
                    return
                if received == self.received and not self._decrypted():
                    return
        except Exception as error:
            self._on_fault(error)
        self._loop.call_soon(self._readable)

    def _decrypted(self) -> int:
        pending = getattr(self._client.socket(), "pending", None)
        return pending() if pending is not None else 0

    def _writable(self) -> None:
        self._client.loop_write()

    def _misc(self) -> None:
        if self.is_attached:
            self._timer = self._loop.call_later(_MISC_INTERVAL_S, self._misc)
            self._client.loop_misc()

    # Paho's callbacks. `reconnect` calls these in a thread, before there is anything to attach to the loop.

    def _on_register_write(self, _client: Any, _data: Any, _sock: Any) -> None:
        if self.is_attached:
            self._loop.add_writer(self._fd, self._writable)

    def _on_unregister_write(self, _client: Any, _data: Any, _sock: Any) -> None:
        if self.is_attached:
            self._loop.remove_writer(self._fd)
            self._on_written()

    def _on_socket_close(self, _client: Any, _data: Any, _sock: Any) -> None:
        if self.is_attached:
            self.detach()
