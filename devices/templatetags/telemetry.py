"""Readings and moments in templates, as static/devices/js/format.js shows them once it runs."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
from django import template
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.filter
def reading_text(value: Any) -> str:
    """A reading for people: seven digits of a float, strings as they are, everything else as JSON."""
    if isinstance(value, msgspec.Raw):
        value = json.loads(bytes(value))
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.7g}" if value % 1 or abs(value) >= 1e15 else f"{value:.0f}"
    return json.dumps(value, ensure_ascii=False)


@register.simple_tag
def moment(ms: int | str | None, element_id: str = "") -> SafeString:
    """A <time> element in UTC, which the browser turns into its own time zone; None is "never".

    So is "", which is what a variable that is not there resolves to.
    """
    identity = format_html(' id="{}"', element_id) if element_id else ""
    if ms is None or isinstance(ms, str):
        return format_html("<time{}>never</time>", identity)
    instant = datetime.fromtimestamp(ms / 1000, UTC)
    return format_html(
        '<time{} datetime="{}" data-ms="{}">{}</time>',
        identity,
        instant.isoformat(timespec="milliseconds"),
        ms,
        f"{instant:%Y-%m-%d %H:%M:%S} UTC",
    )
