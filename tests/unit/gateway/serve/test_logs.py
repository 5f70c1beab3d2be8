"""What is written to standard error."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config import LogOptions
from gateway.serve import logs


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_json_is_one_object_a_line_with_time_level_logger_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions(format="json"))

    logging.getLogger("gateway.test").warning("device %s is late", "thermo-1")

    record = json.loads(capsys.readouterr().err)
    assert record.pop("timestamp").endswith("Z")
    assert record == {"event": "device thermo-1 is late", "level": "warning", "logger": "gateway.test"}


def test_an_exception_is_within_its_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions(format="json"))

    try:
        int("no")
    except ValueError:
        logging.getLogger("gateway.test").exception("failed")

    (line,) = capsys.readouterr().err.splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


def test_the_console_form_is_one_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions())

    logging.getLogger("gateway.test").info("ready")

    (line,) = capsys.readouterr().err.splitlines()
    assert "info" in line
    assert "ready" in line
    assert "gateway.test" in line


def test_less_than_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions(level="error"))

    logging.getLogger("gateway.test").warning("quiet")

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("format_name", ["console", "json"])
def test_the_token_in_a_device_path_is_masked_whoever_wrote_it(
    format_name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(LogOptions(format=format_name))  # type: ignore[arg-type]

    logging.getLogger("other").error("POST %s failed", "/api/v1/s3cr3tt0k3n/telemetry?x=1")

    output = capsys.readouterr().err
    assert "s3cr3tt0k3n" not in output
    assert "/api/v1/***/telemetry?x=1" in output


@pytest.mark.parametrize("form", ["console", "json"])
def test_tokens_are_masked_in_the_text_of_an_exception(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogOptions(format=form))

    try:
        int("/api/v1/s3cr3tt0k3n/telemetry")
    except ValueError:
        logging.getLogger("other").exception("failed")

    output = capsys.readouterr().err
    assert "s3cr3tt0k3n" not in output
    assert "ValueError: invalid literal for int() with base 10: '/api/v1/***/telemetry'" in output
