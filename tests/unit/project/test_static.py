"""Static files over ASGI."""

import pytest

from project.static import StaticFiles
from protocols.asgi import Event

BASE = "/static/admin/css/base.css"


async def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    async def receive() -> Event:
        raise AssertionError("nothing to receive")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await StaticFiles()({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


async def test_a_file_of_an_installed_app_is_served_with_its_type_and_length() -> None:
    status, headers, body = await get(BASE)

    assert status == 200
    assert headers["content-type"].startswith("text/css")
    assert headers["content-length"] == str(len(body))
    assert headers["x-content-type-options"] == "nosniff"


async def test_the_files_of_the_dashboard_are_there() -> None:
    assert (await get("/static/devices/css/app.css"))[0] == 200


async def test_a_browser_that_has_it_already_hears_304_without_a_body() -> None:
    _, headers, _ = await get(BASE)

    status, _, body = await get(BASE, if_none_match=headers["etag"])

    assert (status, body) == (304, b"")


async def test_a_range_is_that_part_of_it() -> None:
    _, _, whole = await get(BASE)

    status, headers, body = await get(BASE, range="bytes=10-19")

    assert (status, body) == (206, whole[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(whole)}"


async def test_head_has_the_headers_alone() -> None:
    status, headers, body = await get(BASE, "HEAD")

    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0


async def test_nothing_can_be_written() -> None:
    assert (await get(BASE, "PUT"))[0] == 405


@pytest.mark.parametrize(
    "path", ["/static/", "/static/nothing.css", "/static/../project/settings.py", "/static/admin/../admin/css/base.css"]
)
async def test_what_is_not_a_static_file_is_404(path: str) -> None:
    assert (await get(path))[0] == 404
