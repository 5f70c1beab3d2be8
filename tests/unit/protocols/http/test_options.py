"""The options of an HTTP listener: documented, checked, and the same for TOML and for Python."""

import dataclasses

import pytest

from protocols.http import HttpOptions, HttpServer


def test_each_option_says_what_it_does() -> None:
    for option in dataclasses.fields(HttpOptions):
        assert len(option.metadata["help"]) > 20, option.name


def test_the_server_takes_http_options() -> None:
    assert HttpServer.Options is HttpOptions


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_connections", 0),
        ("keep_alive_s", 0),
        ("write_timeout_s", -1.0),
        ("websocket_max_message_bytes", 2**32),
        ("websocket_ping_interval_s", -1),
        ("trusted_proxies", ("10.0.0.1/8",)),
        ("min_body_bytes_per_s", 0),
        ("max_body_bytes", 17 * 1024 * 1024),  # more than an address may have
        ("max_body_bytes_per_address", 129 * 1024 * 1024),  # more than all may have
        ("server_header", "a\r\nb"),
        ("server_header", "é"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        HttpOptions(**{name: value})  # type: ignore[arg-type]


def test_the_clock_resolves_the_shortest_timeout() -> None:
    assert HttpOptions(head_timeout_s=0.4, websocket_ping_interval_s=0).shortest_timeout_s == 0.4
    assert HttpOptions(min_body_bytes_per_s=1).shortest_timeout_s > 1
