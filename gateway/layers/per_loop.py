"""One object per event loop, for what cannot be shared between loops: connections, tasks, futures."""

import asyncio
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Makes the object of the running event loop when it is first asked for; forgets those of closed loops."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._objects: dict[asyncio.AbstractEventLoop, T] = {}
        self._lock = threading.Lock()

    @property
    def here(self) -> T:
        """The object of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._objects.get(loop)
        if found is None:
            found = self._make()
            with self._lock:
                for other in [other for other in self._objects if other.is_closed()]:
                    del self._objects[other]
                self._objects[loop] = found
        return found

    @property
    def existing(self) -> T | None:
        """The object of the running loop, if it was made."""
        return self._objects.get(asyncio.get_running_loop())

    def pop(self) -> T | None:
        """Forgets the object of the running loop and returns it."""
        with self._lock:
            return self._objects.pop(asyncio.get_running_loop(), None)

    def __len__(self) -> int:
        return len(self._objects)
