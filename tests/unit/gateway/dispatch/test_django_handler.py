"""Django's views behind `get_django_application`: one hop to a thread that stays."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_finished, request_started
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path, reverse
from prometheus_client import REGISTRY

from gateway.dispatch.django_handler import DjangoHandler
from gateway.dispatch.threads import ThreadPool
from gateway.testing import HttpCommunicator
from protocols.asgi import Event

threads_seen: list[str] = []
release = threading.Event()


def note_thread(*args: Any, **kwargs: Any) -> None:
    threads_seen.append(threading.current_thread().name)


def noting_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def call(request: HttpRequest) -> HttpResponse:
        note_thread()
        return get_response(request)

    return call


def named(request: HttpRequest) -> HttpResponse:
    note_thread()
    return HttpResponse(f"{request.method} {reverse('named')} {request.body.decode()}")


def in_parts(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        for part in ("one ", "two"):
            note_thread()
            yield part

    return StreamingHttpResponse(parts())


def in_asynchronous_parts(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for part in ("one ", "two"):
            await asyncio.sleep(0)
            yield part

    return StreamingHttpResponse(parts())


def this_file(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(__file__).open("rb"))


async def asynchronous(request: HttpRequest) -> HttpResponse:
    await sync_to_async(note_thread)()
    return HttpResponse("awaited")


def broken(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("broken on purpose")


def slow(request: HttpRequest) -> HttpResponse:
    release.wait()
    return HttpResponse("at last")


def endless(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[str]:
        while True:
            yield "and on "

    return StreamingHttpResponse(parts())


urlpatterns = [
    path("named/", named, name="named"),
    path("in-parts/", in_parts),
    path("in-asynchronous-parts/", in_asynchronous_parts),
    path("file/", this_file),
    path("asynchronous/", asynchronous),
    path("broken/", broken),
    path("slow/", slow),
    path("endless/", endless),
]


@pytest.fixture
def handler(settings: Any) -> Iterator[DjangoHandler]:
    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    settings.MIDDLEWARE = [f"{__name__}.noting_middleware"]
    threads_seen.clear()
    release.clear()
    yield DjangoHandler(pool=ThreadPool(size=1, name="pages"), max_requests=2)
    release.set()


async def fetch(handler: DjangoHandler, path: str, method: str = "GET", body: bytes = b"") -> tuple[int, bytes]:
    response = await HttpCommunicator(handler, method, path, body=body).get_response(timeout=30)
    return response["status"], response["body"]


async def test_signals_middleware_and_view_run_in_one_thread_which_the_next_request_has_too(
    handler: DjangoHandler,
) -> None:
    request_started.connect(note_thread)
    request_finished.connect(note_thread)
    try:
        for _ in range(2):
            assert await fetch(handler, "/named/", "POST", b"what was sent") == (200, b"POST /named/ what was sent")
    finally:
        request_started.disconnect(note_thread)
        request_finished.disconnect(note_thread)

    assert threads_seen == ["pages-0_0"] * 8


@pytest.mark.parametrize("path", ["/in-parts/", "/in-asynchronous-parts/"])
async def test_a_stream_is_sent_part_by_part(handler: DjangoHandler, path: str) -> None:
    assert await fetch(handler, path) == (200, b"one two")


async def test_the_parts_of_a_synchronous_stream_are_made_in_the_thread_of_the_request(handler: DjangoHandler) -> None:
    await fetch(handler, "/in-parts/")

    assert set(threads_seen) == {"pages-0_0"}


async def test_a_file_is_sent_whole(handler: DjangoHandler) -> None:
    assert await fetch(handler, "/file/") == (200, Path(__file__).read_bytes())


async def test_an_asynchronous_view_runs_its_synchronous_code_in_the_thread_of_the_request(
    handler: DjangoHandler,
) -> None:
    assert await fetch(handler, "/asynchronous/") == (200, b"awaited")
    assert set(threads_seen) == {"pages-0_0"}


async def test_a_view_that_raises_is_answered_500_and_the_next_request_is_served(
    handler: DjangoHandler, settings: Any
) -> None:
    settings.DEBUG_PROPAGATE_EXCEPTIONS = False

    assert (await fetch(handler, "/broken/"))[0] == 500
    assert (await fetch(handler, "/named/"))[0] == 200


async def test_one_request_too_many_is_told_to_come_again(handler: DjangoHandler) -> None:
    refused = REGISTRY.get_sample_value("gateway_django_requests_refused_total") or 0
    waiting = [asyncio.create_task(fetch(handler, "/slow/")) for _ in range(2)]
    await asyncio.sleep(0)  # both have begun

    response = await HttpCommunicator(handler, "GET", "/named/").get_response(timeout=30)
    release.set()

    assert response["status"] == 503
    assert (b"Retry-After", b"5") in response["headers"]
    assert REGISTRY.get_sample_value("gateway_django_requests_refused_total") == refused + 1
    assert await asyncio.gather(*waiting) == [(200, b"at last")] * 2
    assert (await fetch(handler, "/named/"))[0] == 200


async def test_a_request_that_is_not_answered_in_time_is_told_so_and_counts_until_its_thread_is_done(
    handler: DjangoHandler,
) -> None:
    impatient = DjangoHandler(pool=ThreadPool(size=1), max_requests=1, timeout_s=0.01)
    assert await fetch(impatient, "/slow/") == (503, b"no answer within 0.01 s; come again in a moment\n")
    assert (await fetch(impatient, "/named/"))[1].startswith(b"busy")

    release.set()
    async with asyncio.timeout(30):
        while (await fetch(impatient, "/named/"))[1].startswith(b"busy"):
            await asyncio.sleep(0)


async def test_a_client_that_leaves_ends_a_stream(handler: DjangoHandler) -> None:
    request_finished.connect(note_thread)
    sent: list[Event] = []

    async def receive() -> Event:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: Event) -> None:
        if len(sent) == 3:
            raise ConnectionError("the client has disconnected")
        sent.append(event)

    scope = {"type": "http", "method": "GET", "path": "/endless/", "headers": [], "query_string": b""}
    try:
        with pytest.raises(ConnectionError):
            await handler(scope, receive, send)
    finally:
        request_finished.disconnect(note_thread)

    assert threads_seen[-1] == "pages-0_0"  # the response was closed, in its thread


async def test_another_type_of_scope_is_refused(handler: DjangoHandler) -> None:
    with pytest.raises(ValueError, match="websocket"):
        await handler({"type": "websocket"}, None, None)
