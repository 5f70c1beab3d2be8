"""The data directory of a running gateway: private, locked by one process, with its secret key."""

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.config import Config
from gateway.exceptions import GatewayError

logger = logging.getLogger("gateway.supervisor")

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
        _make_private(directory)
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


def _make_private(directory: Path) -> None:
    """Takes the files from other users, whatever the mode of the directory lets them reach.

    Sessions of logged-in people are among them; earlier versions made the database as the umask had it.
    """
    for file in directory.iterdir():
        status = file.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            try:
                file.chmod(status.st_mode & stat.S_IRWXU)
                logger.warning("%s could be read or written by other users; its mode is put right", file)
            except OSError as error:
                logger.warning(
                    "%s can be read or written by other users: chmod 600 %s (%s)", file, file, _reason(error)
                )


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
