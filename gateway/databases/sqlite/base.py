"""Where Django looks for a database backend's DatabaseWrapper."""

import os
from pathlib import Path
from typing import Any

from django.db.backends.sqlite3 import base

from protocols.durable_sqlite import Identity, identity_of, note_log, set_aside_log


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, which also knows whether the file that it has opened is still the one with that name.

    A file that was moved away or restored from a backup is still open in every connection: what is written to it is
    lost, what is read from it is old. With CONN_HEALTH_CHECKS such a connection is replaced before its next use.

    A missing file is an error ("unable to open database file"), not a new and empty database; `create_private` makes
    one.
    """

    _file: Path | None = None
    _opened: tuple[int, int] | None = None

    def get_connection_params(self) -> dict[str, Any]:
        """As Django, with the name of a file as a URI that does not create it."""
        parameters: dict[str, Any] = super().get_connection_params()
        name = parameters["database"]
        self._file = None
        if not self.is_in_memory_db() and not str(name).startswith("file:"):
            self._file = Path(name).absolute()
            parameters["database"] = f"{self._file.as_uri()}?mode=rw"
        return parameters

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """As Django. Raises sqlite3.Error."""
        if self._file is not None:
            set_aside_log(self._file)
        connection = super().get_new_connection(conn_params)
        self._opened = _identity(self._file)
        if self._file is not None and self._opened is not None:
            note_log(self._file, self._opened)
        return connection

    def is_usable(self) -> bool:
        """Whether the file that was opened is the one that has its name now."""
        return self._opened == _identity(self._file)


def create_private(file: Path) -> None:
    """Makes an empty database that its owner alone can read, if there is none; SQLite gives its further files (-wal,
    -shm) the same mode. Raises OSError."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _identity(file: Path | None) -> Identity | None:
    return None if file is None else identity_of(file)
