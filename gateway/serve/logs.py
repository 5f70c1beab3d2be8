"""How the process logs: records of the standard library's `logging`, formatted by structlog, on standard error.

The console form is for people, one line an event; the JSON form has one object a line for a collector. A token in a
path reaches neither, nor does one in the text of an exception.
"""

import logging
import logging.config
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from gateway.config import LogOptions
from protocols.log_lines import PeerLog
from protocols.masking import mask_text, printable, redact_path

_TIME = {
    "json": structlog.processors.TimeStamper(fmt="iso", utc=True),
    "console": structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
}


def configure(options: LogOptions) -> None:
    """Sends every logger's records of `options.level` and above to standard error, in `options.format`."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "gateway": {
                    "()": structlog.stdlib.ProcessorFormatter,
                    "foreign_pre_chain": [
                        structlog.stdlib.add_log_level,
                        structlog.stdlib.add_logger_name,
                        _TIME[options.format],
                    ],
                    "processors": _processors(options),
                }
            },
            "filters": {"refused": {"()": RefusedRequests}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "gateway", "filters": ["refused"]}},
            "root": {"handlers": ["stderr"], "level": options.level.upper()},
            "loggers": {
                "asyncio": {"level": "WARNING"},  # its debug records are one per loop
                "django.request": {"level": "ERROR"},  # a 404 is the browser's business
            },
        }
    )
    logging.captureWarnings(True)


class RefusedRequests(logging.Filter):
    """Replaces Django's record of a request that was refused or failed by one line within the peer's share.

    Django logs a traceback, as often as somebody sends such a request. That of a failure is kept, with the line."""

    _peers = PeerLog("gateway.pages")

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a record that the line replaces."""
        request, status = getattr(record, "request", None), getattr(record, "status_code", 0)
        if request is None or status < 400 or not record.name.startswith("django."):
            return True
        client = getattr(request, "scope", {}).get("client")
        asked = (request.method, redact_path(request.path), client[0] if client else "a local peer")
        why = printable(record.getMessage())[:200]
        if status < 500:
            self._peers.log(record.levelno, client, "refused %s %s of %s with %d: %s", *asked, status, why)
        else:
            message, raised = "%s %s of %s failed with %d: %s", record.exc_info
            kind = message + (raised[0].__name__ if raised and raised[0] else "")
            self._peers.log(record.levelno, client, message, *asked, status, why, kind=kind, exc_info=raised)
        return False


def _processors(options: LogOptions) -> "list[structlog.types.Processor]":
    last: list[structlog.types.Processor]
    if options.format == "json":
        last = [structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        last = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    first = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return [first, structlog.processors.format_exc_info, hide_tokens, *last]


def hide_tokens(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks what looks like a token in the paths and URLs in the texts of a record, whichever logger wrote it."""
    for part in ("event", "exception", "stack"):
        text = event.get(part)
        if isinstance(text, str):
            event[part] = mask_text(text)
    return event
