"""Who may look: any active user with the permission to view devices. Pages and live streams ask here."""

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, Concatenate, ParamSpec

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

PERMISSION = "gateway_devices.view_device"

P = ParamSpec("P")


def may_watch(user: Any) -> bool:
    """Whether `user`, perhaps an anonymous one, may see devices and their readings."""
    return bool(user.is_active and user.has_perm(PERMISSION))


def session_may_watch(session_key: str | None) -> bool:
    """Whether the session exists still, and its user may watch still: asked again and again while a stream is open."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    request = HttpRequest()
    request.session = store(session_key)
    return may_watch(get_user(request))


def watchers_only(
    view: Callable[Concatenate[HttpRequest, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """A view for those who may watch: others are asked to log in, or told that they may not."""

    @wraps(view)
    @login_required
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not may_watch(request.user):
            return render(request, "devices/forbidden.html", status=403)
        return view(request, *args, **kwargs)

    return guarded
