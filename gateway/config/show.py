"""A configuration as text: TOML again, with the origin of each value, without its secrets."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.model import Config, ListenerConfig, is_secret

MASK = "***"
_SECRET_PARAMETER = re.compile(r"((?:password|secret|token)[^=&]*=)[^&]*", re.IGNORECASE)


def mask_url(url: str) -> str:
    """`url` without its password and without secrets in its query."""
    parts = urlsplit(url)
    if parts.password is not None:
        user, _, host = parts.netloc.rpartition("@")
        parts = parts._replace(netloc=f"{user.partition(':')[0]}:{MASK}@{host}")
    # Not urlunsplit: it would drop the slashes of "memory://" and "sqlite:///path".
    query = _SECRET_PARAMETER.sub(rf"\1{MASK}", parts.query)
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{query}" if query else "")


def render(config: Config, origins: Mapping[str, str], *, effective: bool) -> str:
    """TOML that means `config`: what was written, or with `effective` all of it, each with its origin."""
    lines = list(_values(config, "", origins, effective))
    for name, options in config.tables():
        lines += _table(options, name, f"[{name}]", origins, effective)
    for index, listener in enumerate(config.listeners):
        path = f"listeners.{index}"
        values = [*_values(listener, path, origins, effective), *_values(listener.options, path, origins, effective)]
        if values:
            lines += ["", "[[listeners]]", *values]
        if listener.tls is not None:
            lines += _table(listener.tls, f"{path}.tls", "[listeners.tls]", origins, effective)
    return "\n".join(lines).strip("\n") + "\n"


def _table(options: Any, path: str, header: str, origins: Mapping[str, str], effective: bool) -> list[str]:
    values = list(_values(options, path, origins, effective))
    return ["", header, *values] if values else []


def _values(options: Any, path: str, origins: Mapping[str, str], effective: bool) -> Iterator[str]:
    for item in dataclasses.fields(options):
        value = getattr(options, item.name)
        key = f"{path}.{item.name}" if path else item.name
        if value is None or dataclasses.is_dataclass(value) or key in ("listeners", "sections", "protocols"):
            continue
        if isinstance(options, ListenerConfig) and not options.bind and item.name != "protocol":
            continue  # its protocol does not listen
        origin = origins.get(key, "default")
        if effective or origin != "default":
            yield f"{f'{item.name} = {_toml(_masked(item, value))}':<47} # {origin}"


def _masked(item: "dataclasses.Field[Any]", value: Any) -> Any:
    if not is_secret(item):
        return value
    if "://" in str(value):
        return mask_url(value)
    return value if item.metadata["url"] else MASK


def _toml(value: Any) -> str:
    match value:
        case tuple() | list() | frozenset():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case bool() | int() | float():
            return json.dumps(value)
        case _ if dataclasses.is_dataclass(value):
            keys = ((item.name, getattr(value, item.name)) for item in dataclasses.fields(value))
            return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in keys if inner is not None) + " }"
        case Path():
            return json.dumps(str(value), ensure_ascii=False)
        case Mapping():
            pairs = ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case _:
            return json.dumps(str(value), ensure_ascii=False)
