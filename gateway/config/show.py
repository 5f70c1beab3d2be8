"""A configuration as text: TOML again, with the origin of each value, without its secrets."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config.model import Config, ListenerConfig
from gateway.config.sources import SECRET_KEYS, URL_KEYS

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
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            lines += _table(value, item.name, f"[{item.name}]", origins, effective)
    for name, section in config.sections.items():
        lines += _table(section, name, f"[{name}]", origins, effective)
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
        if value is None or dataclasses.is_dataclass(value) or key in ("listeners", "sections"):
            continue
        if isinstance(options, ListenerConfig) and not options.bind and item.name != "protocol":
            continue  # its protocol does not listen
        origin = origins.get(key, "default")
        if effective or origin != "default":
            yield f"{f'{item.name} = {_toml(_masked(key, item, value))}':<47} # {origin}"


def _masked(key: str, item: "dataclasses.Field[Any]", value: Any) -> Any:
    if key not in SECRET_KEYS and not item.metadata.get("secret"):
        return value
    if "://" in str(value):
        return mask_url(value)
    return value if key in URL_KEYS else MASK


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
