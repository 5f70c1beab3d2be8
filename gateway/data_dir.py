"""The data directory of a running gateway: made private, held by one process, given its secret key."""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.config import Config
from gateway.exceptions import GatewayError

LOCK_NAME = "lock"


@contextmanager
def held(config: Config) -> Iterator[None]:
    """Creates the data directory if need be and holds it: two processes would overwrite each other's MQTT sessions.

    The lock ends with the process, however it ends. Raises GatewayError.
    """
    directory = config.data_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise GatewayError(f"cannot use the data directory {directory}: {_reason(error)}") from error
    try:
        _lock(descriptor, directory)
        _ensure_secret_key(config)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        pid = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
        raise GatewayError(
            f"the data directory {directory} is in use by another gateway (process {pid}); "
            "stop it, or give this one another data_dir"
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())


def _ensure_secret_key(config: Config) -> None:
    """Writes a new key whole or not at all: a half-written one would be used for ever."""
    if config.secret_key() is not None:
        return
    draft = config.secret_key_file.with_suffix(".new")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(50) + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(config.secret_key_file)
    except OSError as error:
        raise GatewayError(f"cannot write {config.secret_key_file}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
