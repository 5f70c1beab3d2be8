"""Readings, names and moments in templates, as static/devices/js/format.js shows them once it runs."""

from typing import Any

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString, mark_safe

from devices.values import Shown, Value, duration_text, instant, name_text, size_text

register = template.Library()
register.filter(duration_text)


@register.filter
def shown_name(name: Any) -> str:
    """A key or a name: with escapes of what is not seen."""
    return name_text(str(name))


@register.simple_tag
def value_cell(device_id: int, key: str, value: Value) -> SafeString:
    """The latest value of a key; of one that is cut, the beginning and a link to the whole."""
    return shown_value(value.shown, f"{reverse('device-value', args=[device_id])}?{urlencode({'key': key})}")


@register.simple_tag
def shown_value(value: Shown, whole: str) -> SafeString:
    """A value; of one that is cut, the beginning and a link to `whole`."""
    cell = format_html('<span class="value">{}</span>', value.text)
    if not value.whole_bytes:
        return cell
    return format_html('{} <a class="whole" href="{}">all {}</a>', cell, whole, size_text(value.whole_bytes))


@register.simple_tag
def moment(ms: int | str | None, element_id: str = "") -> SafeString:
    """A <time> element in UTC, which the browser turns into its own time zone; None is "never".

    So is "", which is what a variable that is not there resolves to.
    """
    identity = format_html(' id="{}"', element_id) if element_id else ""
    if ms is None or isinstance(ms, str):
        return format_html("<time{}>never</time>", identity)
    at = instant(ms)
    iso = "" if at is None else format_html(' datetime="{}"', at.isoformat(timespec="milliseconds"))
    return format_html('<time{}{} data-ms="{}">{}</time>', identity, iso, ms, moment_text(ms))


@register.simple_tag
def since(ms: int | None) -> SafeString:
    """A <time> element that the browser turns into how long it has been so; hidden if nobody knows."""
    if ms is None:
        return mark_safe('<time id="since" data-format="since" hidden></time>')
    return format_html('<time id="since" data-format="since" data-ms="{}">since {}</time>', ms, moment_text(ms))


@register.filter
def moment_text(ms: int) -> str:
    """A time in UTC; the number as it is, if that is beyond the years that there are."""
    at = instant(ms)
    return f"{ms} ms" if at is None else f"{at:%Y-%m-%d %H:%M:%S}.{ms % 1000:03} UTC"
