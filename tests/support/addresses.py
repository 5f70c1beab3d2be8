"""The addresses of all pages and streams, from the configuration of URLs, so that a new one is tested, too."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.urls import URLResolver

_ARGUMENT = re.compile(r"\(\?P<(\w+)>[^)]*\)|<(?:\w+:)?(\w+)>")


def addresses(patterns: list[Any], arguments: Mapping[str, str], prefix: str = "") -> Iterator[str]:
    """The address of each page below `patterns`, with `arguments` in it. KeyError for a page that has another one."""
    for pattern in patterns:
        route = prefix + str(pattern.pattern).removeprefix("^").removesuffix("$")
        if isinstance(pattern, URLResolver):
            yield from addresses(pattern.url_patterns, arguments, route)
        else:
            yield "/" + _ARGUMENT.sub(lambda match: arguments[match[1] or match[2]], route)


def arguments_for(device_id: int) -> dict[str, str]:
    """What stands for each argument of an address. Whoever adds a page with another one adds it here."""
    return {
        "device_id": str(device_id),
        "object_id": str(device_id),
        "pk": "1",
        "app_label": "gateway_devices",
        "content_type_id": "1",
        "id": "1",
        "url": "nothing",
    }
