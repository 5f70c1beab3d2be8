"""Findings about a valid configuration: what may be a mistake, a risk, or a reason for which it will not work.

A finding names the key, says what is wrong and what to do. Nothing here has a side effect.
"""

import dataclasses
import importlib.util
import ipaddress
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from gateway.config import Loaded
from gateway.config.model import Config, ListenerConfig

SECRET_KEY_CHARACTERS = 32
EXPIRES_SOON_S = 14 * 86_400


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact about a configuration. An "error" keeps the gateway, or one of its listeners, from working."""

    level: Literal["error", "warning"]
    subject: Literal["security", "operation"]
    key: str
    message: str
    hint: str

    def __str__(self) -> str:
        return f"{self.level} ({self.subject}): {self.key}: {self.message}; {self.hint}"


_risk = partial(Finding, "warning", "security")
_trap = partial(Finding, "warning", "operation")
_fault = partial(Finding, "error", "operation")


def review(loaded: Loaded) -> list[Finding]:
    """Every finding, errors first."""
    config = loaded.config
    findings = [
        *_listeners(config),
        *_server(config),
        *_files(loaded),
        *_database(config),
        *(finding for key, url in _urls(config) if _is_redis(url) for finding in _redis(key, url)),
    ]
    return sorted(findings, key=lambda finding: finding.level != "error")


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can connect to `host`; a Unix socket (None) counts."""
    if host is None or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listeners(config: Config) -> Iterator[Finding]:
    for index, listener in enumerate(config.listeners):
        key = f"listeners.{index}"
        yield from _tls(listener, key)
        yield from _options(listener.options, key)
        if getattr(listener.options, "allow_anonymous", False) and not is_loopback(listener.host):
            yield _risk(
                f"{key}.allow_anonymous",
                f"anybody who reaches {listener.bind} may connect",
                "leave it false unless the network is closed",
            )
        if listener.protocol == "http" and listener.is_everywhere and not _has_outside_name(config):
            yield _trap(
                f"{key}.bind",
                "browsers are answered only at localhost, as no other host name is configured",
                "set server.public_url or server.allowed_hosts",
            )


def _tls(listener: ListenerConfig, key: str) -> Iterator[Finding]:
    if listener.tls is None:
        if not is_loopback(listener.host):
            yield _risk(
                f"{key}.bind",
                f"{listener.protocol} at {listener.bind} is not encrypted: tokens and passwords can be read on the way",
                "give the listener a tls table, or bind 127.0.0.1 behind a proxy that encrypts",
            )
        return
    try:
        left_s = listener.tls.context().expires_s - time.time()
    except (OSError, ValueError) as error:
        yield _fault(f"{key}.tls", f"the certificate cannot be used: {error}", "see the files")
        return
    if left_s < EXPIRES_SOON_S:
        when = "has expired" if left_s < 0 else f"expires in {left_s / 86_400:.0f} days"
        yield _trap(f"{key}.tls", f"the certificate {when}", "renew it; it is read again by itself")


def _options(options: Any, key: str) -> Iterator[Finding]:
    """Findings about the keys of any protocol: files that are missing, a connection that is not encrypted."""
    for field in dataclasses.fields(options):
        path = getattr(options, field.name)
        if isinstance(path, Path) and not os.access(path, os.R_OK):
            yield _fault(
                f"{key}.{field.name}", f"{path} is not there, or cannot be read", "see its path and permissions"
            )
    url = urlsplit(getattr(options, "url", ""))
    if url.scheme == "mqtt" and not is_loopback(url.hostname):
        yield _risk(
            f"{key}.url",
            f"the connection to {url.hostname} is not encrypted: the password and all messages can be read on the way",
            "use mqtts:// unless the network is closed",
        )


def _has_outside_name(config: Config) -> bool:
    return bool(config.server.public_url or config.server.allowed_hosts)


def _server(config: Config) -> Iterator[Finding]:
    key = config.server.secret_key
    if key is not None and len(key) < SECRET_KEY_CHARACTERS:
        yield _risk(
            "server.secret_key",
            f"{len(key)} characters can be guessed",
            f"use {SECRET_KEY_CHARACTERS} random ones or more, or leave it out: one is generated",
        )
    if key is None and config.layer.url != "memory://":
        yield _trap(
            "server.secret_key",
            "each process generates its own, so a login at one is none at the others",
            "set GATEWAY_SERVER__SECRET_KEY or GATEWAY_SERVER__SECRET_KEY_FILE for all of them",
        )
    if "*" in config.server.allowed_hosts:
        yield _risk(
            "server.allowed_hosts",
            '"*" lets other sites\' names point here',
            "list the names that are meant",
        )


def _files(loaded: Loaded) -> Iterator[Finding]:
    directory = loaded.config.data_dir
    if directory.is_dir():
        if _is_open_to_others(directory):
            yield _risk("data_dir", f"{directory} can be read by other users", f"chmod 700 {directory}")
        if not os.access(directory, os.W_OK | os.X_OK):
            yield _fault("data_dir", f"{directory} cannot be written to", "see its owner and permissions")
    elif directory.exists():
        yield _fault("data_dir", f"{directory} is not a directory", "name another")
    files = {
        "server.secret_key": loaded.config.secret_key_file,
        "database.url": loaded.config.sqlite_file(),
    }
    kept = {file: key for key, file in files.items() if file is not None and file.exists()}
    if directory.is_dir() and os.access(directory, os.R_OK | os.X_OK):
        kept = {file: "data_dir" for file in sorted(directory.iterdir()) if file.is_file()} | kept
    for file, key in kept.items():
        if _is_open_to_others(file):
            yield _risk(key, f"{file} can be read by other users", f"chmod 600 {file}")
    if loaded.file is not None and _is_open_to_others(loaded.file):
        for key in sorted(_secrets_in_file(loaded)):
            yield _risk(
                key,
                f"a secret in {loaded.file}, which other users can read",
                f"chmod 600 {loaded.file}, or use GATEWAY_{key.upper().replace('.', '__')}_FILE",
            )


def _is_open_to_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def _secrets_in_file(loaded: Loaded) -> Iterator[str]:
    """The keys of the secrets that are in the file in plain."""
    for key, declared, value in loaded.config.secrets():
        is_written = loaded.origins.get(key, "").startswith(f"{loaded.file}:")
        if is_written and (declared.metadata["secret"] or urlsplit(value).password):
            yield key


def _database(config: Config) -> Iterator[Finding]:
    parts = urlsplit(config.database_url)
    if parts.scheme != "postgresql":
        return
    if importlib.util.find_spec("psycopg") is None:
        yield _fault(
            "database.url",
            "the driver for PostgreSQL is not installed",
            'pip install "fieldgate[postgres]"',
        )
    mode = parse_qs(parts.query).get("sslmode", ["prefer"])[0]
    if parts.hostname and not is_loopback(parts.hostname) and mode in ("disable", "allow", "prefer"):
        yield _risk(
            "database.url",
            f"the connection to {parts.hostname} may be unencrypted",
            "add ?sslmode=verify-full unless the network is closed",
        )


def _urls(config: Config) -> Iterator[tuple[str, str]]:
    for key, declared, value in config.secrets():
        if declared.metadata["url"] and value is not None:
            yield key, value


def _is_redis(url: str) -> bool:
    return urlsplit(url).scheme.startswith("redis")


def _redis(key: str, url: str) -> Iterator[Finding]:
    parts = urlsplit(url)
    if is_loopback(parts.hostname):  # or none: in memory, in a file, or behind a Unix socket
        return
    if not parts.scheme.startswith("rediss"):
        yield _risk(
            key,
            f"the connection to {parts.hostname} is not encrypted",
            "use rediss:// unless the network is closed",
        )
    if not parts.password:
        yield _risk(
            key,
            f"{parts.hostname} is used without a password",
            "give Redis one: whoever can write to it can write to everybody who is served",
        )
