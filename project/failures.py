"""The answer when a page cannot be made: a page for a browser, JSON for a program.

The one place where that is decided. Settings have DEBUG_PROPAGATE_EXCEPTIONS, so that exceptions reach this middleware.
Django would turn them into a bare 500 at each layer of middleware, which would then save the session and wait for the
same lock again.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from django.core.exceptions import DisallowedHost
from django.db import Error as DatabaseFault
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.request import split_domain_port
from django.shortcuts import render

from gateway.db import describe_failure, is_outage
from gateway.metrics import django_failures
from protocols.log_lines import PeerLog
from protocols.masking import printable, redact_path

RETRY_AFTER_S: Final = 5

logger = logging.getLogger("gateway.pages")
_peers = PeerLog(logger.name)


def answer_failures(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Middleware that answers 400 to an unknown host name, 503 while the database cannot be used, and 500 to any other
    exception."""

    def call(request: HttpRequest) -> HttpResponse:
        try:
            request.get_host()
        except DisallowedHost:
            return _unknown_host(request)
        try:
            return get_response(request)
        except DatabaseFault as error:
            if is_outage(error):
                return _no_database(request, error)
            return _unforeseen(request)
        except Exception:
            return _unforeseen(request)

    return call


def wants_page(request: HttpRequest) -> bool:
    """Whether a browser asks that will show the answer; a script or a program does not."""
    return "text/html" in request.headers.get("Accept", "")


def _unknown_host(request: HttpRequest) -> HttpResponse:
    asked = printable(request.META.get("HTTP_HOST", ""))[:255]
    domain, port = split_domain_port(asked)
    context = {"asked": asked}
    if domain and domain.isascii():
        url = f"{request.scheme}://{domain}{f':{port}' if port else ''}"
        context |= {"allowed_hosts": f'allowed_hosts = ["{domain}"]', "public_url": f'public_url = "{url}"'}
    sentence = (
        f'a browser asked for "{asked}", which is in neither server.public_url nor server.allowed_hosts; '
        "add it there if it is a name of this gateway"
    )
    _peers.warning(_client(request), "%s", sentence, kind="unknown host")
    return _answer(request, 400, "unknown_host.html", sentence, context)


def _no_database(request: HttpRequest, error: DatabaseFault) -> HttpResponse:
    _log(request, "the database cannot be used: %s", describe_failure(error))
    said = f"the database cannot be used at the moment; try again in {RETRY_AFTER_S} seconds"
    response = _answer(request, 503, "503.html", said, {"seconds": RETRY_AFTER_S})
    response["Retry-After"] = str(RETRY_AFTER_S)
    return response


def _unforeseen(request: HttpRequest) -> HttpResponse:
    _log(request, "it failed", exc_info=True)
    return _answer(request, 500, "500.html", "this failed; the log of the gateway says why", {})


def _log(request: HttpRequest, message: str, *args: object, exc_info: bool = False) -> None:
    what = (request.method, redact_path(request.path))
    # Of the same fault there may be many lines, whoever asks for pages in the meantime.
    _peers.log(logging.ERROR, "pages", f"cannot answer %s %s: {message}", *what, *args, kind=message, exc_info=exc_info)


def _answer(request: HttpRequest, status: int, template: str, said: str, context: dict[str, Any]) -> HttpResponse:
    django_failures.labels(status).inc()
    response: Any
    if wants_page(request):
        response = render(None, template, context, status=status)  # without the request: it may need the database
    else:
        response = JsonResponse({"error": said}, status=status)
    response["Cache-Control"] = "no-store"
    response._has_been_logged = True  # or Django logs "Service Unavailable" beside our line
    answer: HttpResponse = response
    return answer


def _client(request: HttpRequest) -> Any:
    return getattr(request, "scope", {}).get("client")
