"""Headers of every page, the admin's included.

The Content-Security-Policy: nothing inline, nothing from elsewhere. And nothing is kept by browsers or on the way, so
that "back" shows nobody what somebody saw before logging out.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.utils.decorators import sync_and_async_middleware

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",  # the live streams too: 'self' covers WebSockets to the page's own origin
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)


@sync_and_async_middleware
def page_headers(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    """Middleware that sets them on each response which does not say otherwise."""
    if iscoroutinefunction(get_response):
        get_async: Callable[[HttpRequest], Awaitable[HttpResponse]] = get_response

        async def call_async(request: HttpRequest) -> HttpResponse:
            return _with_headers(await get_async(request))

        return call_async

    def call(request: HttpRequest) -> HttpResponse:
        return _with_headers(get_response(request))

    return call


def _with_headers(response: HttpResponse) -> HttpResponse:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("Cache-Control", "private, no-store")
    return response
