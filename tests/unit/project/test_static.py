"""Static files over ASGI."""

import gzip
import re
from urllib.parse import urljoin

import pytest
from django.templatetags.static import static

from project.static import HashedStorage, StaticFiles, _files, hash_of_files
from protocols.asgi import Event

BASE = "/static/admin/css/base.css"
FOREVER = "max-age=31536000, public, immutable"
TEXTS = sorted(name for name in _files() if name.endswith((".js", ".css", ".svg")))
REFERENCES = re.compile(r"""(?:\bimport\b[^"';]*|\bfrom\s*|\bimport\()["'](\.[^"']+)["']|url\(\s*["']?([^"')]+)""")

files = StaticFiles()


async def get(path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    async def receive() -> Event:
        raise AssertionError("nothing to receive")

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await files({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


async def test_a_file_of_an_installed_app_is_served_with_its_type_and_length() -> None:
    status, headers, body = await get(BASE)

    assert status == 200
    assert headers["content-type"].startswith("text/css")
    assert headers["content-length"] == str(len(body))
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", sorted(_files()))
async def test_at_the_address_that_pages_have_a_file_is_kept_for_a_year_and_is_compressed(name: str) -> None:
    status, headers, body = await get(static(name), accept_encoding="gzip, deflate, br")
    _, _, plain = await get(static(name))

    assert (status, headers["cache-control"]) == (200, FOREVER)
    assert headers["vary"] == "Accept-Encoding"
    assert headers["content-length"] == str(len(body))
    if "content-encoding" in headers:
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(body) == plain
        assert len(body) < len(plain)
    else:
        assert name not in TEXTS or len(plain) < 400
        assert body == plain


@pytest.mark.parametrize("name", TEXTS)
async def test_what_a_file_refers_to_is_at_an_address_with_the_hash_too(name: str) -> None:
    _, _, body = await get(static(name))

    for groups in REFERENCES.findall(body.decode()):
        reference = next(filter(None, groups))
        if not reference.startswith(("data:", "#", "${")):
            status, headers, _ = await get(urljoin(static(name), reference.partition("#")[0]))
            assert (status, headers["cache-control"]) == (200, FOREVER), f"{name} refers to {reference}"


async def test_the_hash_is_that_of_names_and_contents() -> None:
    assert static("devices/css/app.css") == f"/static/{hash_of_files()}/devices/css/app.css"
    assert HashedStorage().url("a b.css").endswith("/a%20b.css")


@pytest.mark.parametrize("path", [BASE, BASE.replace("/static/", f"/static/{'0' * 12}/")])
async def test_without_the_hash_or_with_that_of_another_version_the_file_is_there_and_is_asked_for_again(
    path: str,
) -> None:
    status, headers, _ = await get(path)

    assert (status, headers["cache-control"]) == (200, "max-age=0, public")


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("gzip;q=0", False),
        ("br, gzip; q=0.0", False),
        ("", False),
        ("identity", False),
        ("gzipped", False),
    ],
)
async def test_only_who_takes_gzip_gets_it(accepted: str, compressed: bool) -> None:
    _, headers, _ = await get(BASE, accept_encoding=accepted)

    assert ("content-encoding" in headers) is compressed


async def test_a_browser_that_has_it_already_hears_304_without_a_body() -> None:
    _, headers, _ = await get(BASE)

    status, _, body = await get(BASE, if_none_match=headers["etag"], accept_encoding="gzip")

    assert (status, body) == (304, b"")


async def test_a_range_is_that_part_of_it() -> None:
    _, _, whole = await get(BASE)

    status, headers, body = await get(BASE, range="bytes=10-19", accept_encoding="gzip")

    assert (status, body) == (206, whole[10:20])
    assert headers["content-range"] == f"bytes 10-19/{len(whole)}"


@pytest.mark.parametrize("accepted", ["", "gzip"])
async def test_head_has_the_headers_alone(accepted: str) -> None:
    _, expected, _ = await get(BASE, accept_encoding=accepted)

    status, headers, body = await get(BASE, "HEAD", accept_encoding=accepted)

    assert (status, headers, body) == (200, expected, b"")


async def test_nothing_can_be_written() -> None:
    assert (await get(BASE, "PUT"))[0] == 405


@pytest.mark.parametrize(
    "path", ["/static/", "/static/nothing.css", "/static/../project/settings.py", "/static/admin/../admin/css/base.css"]
)
async def test_what_is_not_a_static_file_is_404(path: str) -> None:
    assert (await get(path))[0] == 404
    assert (await get(path.replace("/static/", f"/static/{hash_of_files()}/")))[0] == 404
