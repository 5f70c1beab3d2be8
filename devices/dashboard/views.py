"""The dashboard, the page of a device, and the history that its charts draw."""

import math
import re
from typing import Any, Final

from django.contrib.auth.views import LoginView
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.templatetags.static import static
from django.urls import reverse
from django.utils.http import urlencode
from django.views.decorators.http import require_safe

from devices.dashboard.access import watchers_only
from devices.dashboard.command_lines import add_line, publish_lines
from devices.dashboard.device_list import (
    KEYS_PER_DEVICE,
    STATES,
    DeviceListQuery,
    read_device,
    read_device_list,
    search_text,
)
from devices.history import end_of, history
from devices.models import (
    Attribute,
    Command,
    Credential,
    Device,
    DeviceType,
    LatestValue,
    Reading,
    RecordedRefusal,
    now_ms,
    valid,
)
from devices.queries import keys_ahead
from devices.values import number_text
from gateway.config import current

RANGES: Final = {
    "15m": ("15 min", 15 * 60_000),
    "1h": ("1 h", 3_600_000),
    "6h": ("6 h", 6 * 3_600_000),
    "24h": ("24 h", 24 * 3_600_000),
    "7d": ("7 d", 7 * 24 * 3_600_000),
    "30d": ("30 d", 30 * 24 * 3_600_000),
}
"""What a chart may span: the name in addresses, the label, the length in ms."""

BUCKETS: Final = 600
"""Points of a chart: about one for two pixels of a wide one."""

ATTRIBUTES: Final = 100
COMMANDS: Final = 20
REFUSALS: Final = 20
"""So many the page of a device shows: the first attributes, the newest commands and refusals."""

_INT64: Final = re.compile(r"-?[0-9]{1,18}")

COLUMNS: Final = (("name", "Device"), ("connected", "Connection"), ("seen", "Last data"))


class Login(LoginView):
    """The login form; redirects a user who is logged in."""

    template_name = "devices/login.html"
    redirect_authenticated_user = True


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Redirects to the icon, for the admin's pages, which name none."""
    return HttpResponseRedirect(static("devices/img/mark.svg"))


@require_safe
@watchers_only
def dashboard(request: HttpRequest) -> HttpResponse:
    """A page of devices, found, sorted and paged by the server; the live stream keeps it current."""
    query = DeviceListQuery.parse(request.GET.dict())
    device_list = read_device_list(query)
    watched = query.address(page=device_list.page)
    context = {
        "nav": "devices",
        "query": query,
        "device_list": device_list,
        "states": STATES.items(),
        "types": list(DeviceType.objects.order_by("name").values_list("name", flat=True)),
        "columns": [_column(query, name, label) for name, label in COLUMNS],
        "previous_href": _page_href(query, device_list.page - 1) if device_list.page > 1 else "",
        "next_href": _page_href(query, device_list.page + 1) if device_list.page < device_list.pages else "",
        "socket_path": f"/ws/live/?{watched}",
        "events_path": f"/events/live/?{watched}",
        "add_line": add_line("thermo-1"),
        "first_lines": publish_lines(request, current()),
    }
    return render(request, "devices/dashboard.html", context)


@require_safe
@watchers_only
def device_page(request: HttpRequest, device_id: int) -> HttpResponse:
    """One device: latest values, charts, how to publish."""
    keys = search_text(request.GET.get("q", ""))
    facts = read_device(device_id, keys)
    if facts is None:
        raise Http404(f"there is no device {device_id}")
    chosen = request.GET.get("range", "")
    search = f"?{urlencode({'q': keys})}" if keys else ""
    hints = Credential.objects.filter(valid(), device=device_id).order_by("id")
    context = {
        "device": facts,
        "keys": keys,
        "total_keys": len(facts["values"]) + facts["more"],
        "keys_ahead": list(keys_ahead(device_id, keys)[:KEYS_PER_DEVICE]),
        "attributes": list(Attribute.objects.filter(device=device_id).order_by("scope", "key")[:ATTRIBUTES]),
        "commands": list(Command.objects.filter(device=device_id).order_by("-pk")[:COMMANDS]),
        "refusals": list(RecordedRefusal.objects.filter(device=device_id)[:REFUSALS]),
        "token_hints": list(hints.values_list("hint", flat=True)),
        "ranges": [(name, label, length_ms) for name, (label, length_ms) in RANGES.items()],
        "range": chosen if chosen in RANGES else "1h",
        "socket_path": f"/ws/live/{device_id}/{search}",
        "events_path": f"/events/live/{device_id}/{search}",
        "publish_lines": publish_lines(request, current()),
    }
    return render(request, "devices/device.html", context)


@require_safe
@watchers_only
def device_history(request: HttpRequest, device_id: int) -> HttpResponse:
    """The points of a chart of `key` over the `range` that ends now, bucketed by the database; or that ends with the
    latest value, if the device's clock is ahead.

    {"key", "start", "end", "bucket_ms", "points": [[ts, mean, minimum, maximum, count], ...]}, times in ms; 400 for an
    unknown range, 404 for an unknown device.
    """
    get_object_or_404(Device.objects.only("pk"), pk=device_id)
    chosen = RANGES.get(request.GET.get("range", ""))
    key = request.GET.get("key", "").replace("\0", "")
    if chosen is None or not key:
        return JsonResponse({"error": f"key, and range: one of {', '.join(RANGES)}"}, status=400)
    end_ms = end_of(device_id, key, now_ms())
    start_ms = end_ms - chosen[1]
    found = history(device_id, key, start_ms, end_ms, BUCKETS)
    points = [[bucket.ts, bucket.mean, bucket.minimum, bucket.maximum, bucket.count] for bucket in found]
    body = {"key": key, "start": start_ms, "end": end_ms, "bucket_ms": chosen[1] // BUCKETS, "points": points}
    return JsonResponse(body, headers={"Cache-Control": "no-store"})


@require_safe
@watchers_only
def device_value(request: HttpRequest, device_id: int) -> HttpResponse:
    """The whole of a value as JSON, of which pages and streams show the beginning: the latest of `key`; with `ts` and
    `seq`, that of a reading.

    A device chose the text, so browsers must not take it for anything but text.
    """
    get_object_or_404(Device.objects.only("pk"), pk=device_id)
    parameters = request.GET
    number, text = _stored_value(device_id, parameters.get("key", ""), parameters.get("ts"), parameters.get("seq"))
    return HttpResponse(
        number_text(number) if text is None else text.encode("utf-8", "replace"),
        content_type="text/plain; charset=utf-8",
        headers={
            "Content-Disposition": 'inline; filename="value.txt"',
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _stored_value(device_id: int, key: str, ts: str | None, seq: str | None) -> tuple[float, str | None]:
    """Number and text. Raises Http404."""
    named = {"device_id": device_id, "key__name": key.replace("\0", "")}
    if ts is None or seq is None:
        values: QuerySet[Any] = LatestValue.objects.filter(**named)
    elif _INT64.fullmatch(ts) and _INT64.fullmatch(seq):
        values = Reading.objects.filter(**named, ts=int(ts), seq=int(seq))
    else:
        raise Http404("there is no such reading")
    found = values.values_list("number", "text").first()
    if found is None:
        raise Http404("there is no such value")
    number, text = found
    return (math.nan if number is None else number), text


def _page_href(query: DeviceListQuery, page: int) -> str:
    return f"{reverse('dashboard')}?{query.address(page=page)}"


def _column(query: DeviceListQuery, name: str, label: str) -> dict[str, Any]:
    """The heading of a column, with a link that sorts by it, or reverses the order."""
    direction = query.direction(name)
    # What is asked for first: those who are connected, those who were heard last.
    first = name if name == "name" else f"-{name}"
    second = f"-{name}" if name == "name" else name
    sort = second if query.sort == first else first
    return {
        "label": label,
        "direction": direction,
        "href": f"{reverse('dashboard')}?{query.address(sort=sort, page=1)}",
    }
