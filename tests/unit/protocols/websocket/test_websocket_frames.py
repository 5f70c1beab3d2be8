"""Frames as a server writes them; the examples are those of RFC 6455 §5.7."""

import pytest

from protocols.http.websocket_frames import close_frame, frame, may_close_with, message_frame


def test_a_text_is_an_unmasked_text_frame() -> None:
    assert message_frame("Hello") == b"\x81\x05Hello"
    assert message_frame("") == b"\x81\x00"
    assert message_frame("é") == b"\x81\x02\xc3\xa9"


def test_bytes_are_a_binary_frame() -> None:
    assert message_frame(b"Hello") == b"\x82\x05Hello"
    assert message_frame(b"x" * 256) == b"\x82\x7e\x01\x00" + b"x" * 256
    assert message_frame(b"x" * 65536) == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"x" * 65536


@pytest.mark.parametrize(("size", "head"), [(125, b"\x81\x7d"), (126, b"\x81\x7e\0\x7e"), (65535, b"\x81\x7e\xff\xff")])
def test_the_length_takes_as_few_bytes_as_it_can(size: int, head: bytes) -> None:
    assert message_frame("x" * size) == head + b"x" * size


def test_the_same_object_is_framed_once() -> None:
    text = "".join(["a", "b"] * 100)
    assert message_frame(text) is message_frame(text)
    assert message_frame("".join(["a", "b"] * 100)) == message_frame(text)


def test_an_object_that_can_change_is_framed_each_time() -> None:
    buffer = bytearray(b"one")
    assert message_frame(buffer) == b"\x82\x03one"  # type: ignore[arg-type]
    buffer[:] = b"two"
    assert message_frame(buffer) == b"\x82\x03two"  # type: ignore[arg-type]


def test_control_frames() -> None:
    assert frame(0x89, b"Hello") == b"\x89\x05Hello"
    assert close_frame(1000) == b"\x88\x02\x03\xe8"
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert close_frame(None) == b"\x88\x00"


def test_a_long_reason_is_cut_between_characters() -> None:
    framed = close_frame(1000, "é" * 100)
    assert len(framed) == 2 + 2 + 122
    assert framed[4:].decode() == "é" * 61


def test_close_codes_that_may_be_on_the_wire() -> None:
    allowed = {code for code in range(6000) if may_close_with(code)}
    assert allowed == {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
