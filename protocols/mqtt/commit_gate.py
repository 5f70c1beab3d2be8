"""What one connection has written and may not send yet, because it promises what is not committed."""

from collections import deque
from collections.abc import Callable
from typing import Final

from protocols.mqtt.storage.committer import Committer

HIGH_BYTES: Final = 64 * 1024
"""When more than this waits for a commit, messages wait in the session and the socket is not read."""


class CommitGate:
    """Pieces of output in their order, each with the number of the group of the journal that it waits for."""

    __slots__ = ("_committer", "_leave", "_pieces", "size_bytes")

    def __init__(self, committer: Committer, leave: Callable[[bytes], None]) -> None:
        """`leave(data)` is called after each commit while anything is held, with what may leave now: b"" if nothing
        may, because a later group is waited for."""
        self._committer = committer
        self._leave = leave
        self._pieces: deque[tuple[int, bytes]] = deque()
        self.size_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._pieces)

    @property
    def is_much(self) -> bool:
        """Whether no more should be written."""
        return self.size_bytes > HIGH_BYTES

    def add(self, commit_number: int, data: bytes) -> None:
        """Holds `data` until the group with this number is committed. Commit numbers never fall: what was written later
        leaves later."""
        self._pieces.append((commit_number, data))
        self.size_bytes += len(data)
        self._committer.call_when_committed(self)

    def committed(self) -> None:
        """A group has been committed: see Waiter."""
        if not self._pieces:
            return
        data = self._take(self._committer.journal.committed)
        if self._pieces:
            self._committer.call_when_committed(self)
        self._leave(data)

    def drop(self) -> None:
        """Nobody is left to send it to."""
        self._pieces.clear()
        self.size_bytes = 0
        self._committer.forget(self)

    def _take(self, committed: int) -> bytes:
        pieces = self._pieces
        free = []
        while pieces and pieces[0][0] <= committed:
            free.append(pieces.popleft()[1])
        data = b"".join(free)
        self.size_bytes -= len(data)
        return data
