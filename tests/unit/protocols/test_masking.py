"""No token reaches a log, however its path is spelled; and no path forges a line."""

import re
import string
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols import masking
from protocols.masking import mask_path, mask_text, redact_path

TOKENS = st.text(string.ascii_letters + string.digits, min_size=16, max_size=40)


@st.composite
def spelled(draw: st.DrawFn, token: str) -> str:
    """The path of a request with this token, in one of its spellings."""
    slashes = st.sampled_from(["/", "//", "///", "/./", "/../"])
    encode = st.sampled_from([str, quote, _encode_all, lambda text: quote(_encode_all(text))])
    prefix = draw(st.sampled_from(["", "/", "/gateway", "/api", "/things/board", "https://x.example:8443"]))
    api = draw(st.sampled_from(["api", "API", "Api"]))
    version = draw(st.sampled_from(["v1", "V1", "v2", "devices", ""]))
    rest = draw(st.sampled_from(["", "/", "/telemetry", "//attributes?x=1", ".json", ";a=b", "?token=", "&", "%20"]))
    segments = [draw(encode)(part) for part in (api, version, token)]
    return prefix + "".join(draw(slashes) + segment for segment in segments) + rest


def _encode_all(text: str) -> str:
    return "".join(f"%{ord(character):02x}" for character in text)


def hidden(token: str, text: str) -> bool:
    return not any(spelling in text for spelling in (token, _encode_all(token), quote(_encode_all(token))))


@given(st.data())
def test_a_token_is_hidden_in_every_spelling_of_its_path(data: st.DataObject) -> None:
    token = data.draw(TOKENS)
    path = data.draw(spelled(token))

    assert hidden(token, redact_path(path))
    for text in (
        path,
        f"Not Found: {path}",
        f"No route found for path {path!r}.",
        f"No route found for path {path.lstrip('/')!r}.",
        f"GET http://gateway:8000{path} failed",
        f'refused http POST {path} from 192.0.2.7:1: "{path}"',
        f"Traceback (most recent call last):\nValueError: {path}\n",
    ):
        if text.startswith(path) and not path.startswith(("/", "http")):
            continue
        assert hidden(token, mask_text(text)), mask_text(text)


@given(token=TOKENS, name=st.sampled_from(["token", "access_token", "q", "X", "device-key", "tok%65n"]))
def test_a_token_is_hidden_in_a_query_string(token: str, name: str) -> None:
    for value in (token, _encode_all(token)):
        assert hidden(token, mask_path(f"/ws/device/?a=1&{name}={value}&b=2"))
        assert mask_text(f"opened /ws?{name}={value}&b=2 twice") == f"opened /ws?{name}=***&b=2 twice"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/api/v1/token", "/api/v1/***"),
        ("/api/v1//token/telemetry", "/api/v1//***/telemetry"),
        ("/API/V1/token/telemetry", "/API/V1/***/telemetry"),
        ("//api///v1/token", "//api///v1/***"),
        ("/prefix/api/v1/token/rpc", "/prefix/api/v1/***/rpc"),
        ("/api/v1/", "/api/v1/"),
        ("/x?token=short&a=b", "/x?token=***&a=b"),
        ("/x?password=&a=b", "/x?password=&a=b"),
        ("/devices/4711/", "/devices/4711/"),
        ("/admin/gateway_devices/device/550e8400-e29b-41d4-a716-446655440000/change/",) * 2,
        ("/static/devices/js/uPlot.iife.min.js",) * 2,
        ("/a\nforged line", "/a\\nforged line"),
        ("/\x1b[2J", "/\\x1b[2J"),
        ("/grün", "/grün"),
        ("*", "*"),
        ("", ""),
    ],
)
def test_a_path_is_shown_but_for_its_secrets(path: str, shown: str) -> None:
    assert redact_path(path) == shown


@pytest.mark.parametrize(
    "text",
    [
        'File "/usr/lib/averylongdirectoryname1/site-packages/x.py", line 1, in f',
        "kept 3 messages of plant/898830300000061422712345/state",
        "device 0123456789abcdef0123456789abcdef is late",
        "ready: http://127.0.0.1:8000 mqtt://127.0.0.1:1883",
        "database /var/lib/fieldgate/gateway.sqlite3 is away",
    ],
)
def test_a_text_without_tokens_in_paths_stays_as_it_is(text: str) -> None:
    assert mask_text(text) == text


def test_an_application_says_where_secrets_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masking, "_secret_places", [])
    assert mask_path("/api/v1/short/x") == "/api/v1/short/x"

    masking.hide_behind("rooms")
    masking.hide_behind(r"gates/g\d+")

    assert mask_path("/a/Rooms//short/x") == "/a/Rooms//***/x"
    assert mask_path("/gates/g7/short/gates/x") == "/gates/g7/***/gates/x"
    assert mask_path("/rooms") == "/rooms"


def test_what_serves_protocols_knows_no_path_of_the_product() -> None:
    root = Path(__file__).parents[3]
    sources = [file for package in ("protocols", "gateway/serve") for file in (root / package).rglob("*.py")]

    assert [file for file in sources if re.search(r"api/v\d|/api/", file.read_text(), re.IGNORECASE)] == []


@given(st.text(max_size=100))
def test_whatever_is_requested_is_one_printable_line(path: str) -> None:
    assert redact_path(path).isprintable()
    mask_text(path)
