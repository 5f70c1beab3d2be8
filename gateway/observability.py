"""What watches a gateway asks over HTTP: /metrics, /healthz and /readyz, as ASGI applications without Django's stack.

/healthz answers as long as the event loop turns. /readyz says 503 while the process starts, stops, or has no database:
a load balancer then sends nobody here. What protocol servers say of themselves is in its answer too, and takes no
process out of service. /metrics is in Prometheus' text format; it holds no secret and no device's name.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from django.db import DEFAULT_DB_ALIAS, connections
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.db import database_sync_to_async
from protocols.asgi import Receive, Scope, Send
from protocols.server import ProtocolServer

Check: TypeAlias = Callable[[Scope], Awaitable[None]]
"""Returns if what it looks at can work, raises if not. `scope` is that of the request, with the lifespan state."""


class NotReadyError(Exception):
    """Raised by a check with a text that everybody may read; of any other exception only the class is told."""


@dataclass(slots=True)
class Lifecycle:
    """How far the process is; the supervisor keeps it, and every scope has it as state["lifecycle"]."""

    is_ready: bool = False
    servers: Sequence[ProtocolServer] = ()
    """Those that were started, which may have something to say."""


class Metrics:
    """Answers with every metric of the process."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.registry = registry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, generate_latest(self.registry), CONTENT_TYPE_LATEST)


class Health:
    """Answers that the process lives."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, b"ok\n", "text/plain; charset=utf-8")


class Readiness:
    """Answers whether the process can do its work, with the reason for each check that fails."""

    def __init__(self, checks: Mapping[str, Check], *, timeout_s: float = 3.0) -> None:
        self.checks = checks
        self.timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        results = await asyncio.gather(*(_outcome(check, scope, self.timeout_s) for check in self.checks.values()))
        report = dict(zip(self.checks, results, strict=True))
        lifecycle: Lifecycle | None = scope.get("state", {}).get("lifecycle")
        if lifecycle is not None:
            report["server"] = "ok" if lifecycle.is_ready else "starting or stopping"
        is_ready = all(outcome == "ok" for outcome in report.values())
        for server in lifecycle.servers if lifecycle is not None else ():
            report.update(server.status())
        await respond(scope, send, 200 if is_ready else 503, json.dumps(report).encode() + b"\n", "application/json")


async def _outcome(check: Check, scope: Scope, timeout_s: float) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            await check(scope)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except NotReadyError as error:
        return str(error)
    except Exception as error:  # whatever a driver raises, the answer is 503
        return type(error).__name__  # its text may name hosts and users
    return "ok"


async def database_answers(scope: Scope) -> None:
    """Raises what the database driver raises if the default database does not answer."""
    await database_sync_to_async(_ask_database)()


def _ask_database() -> None:
    with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
        cursor.execute("SELECT 1")


async def respond(scope: Scope, send: Send, status: int, body: bytes, content_type: str) -> None:
    """Sends a whole response that nobody may cache; without the body for HEAD, 405 for what is neither GET nor HEAD."""
    headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
    if scope["method"] not in ("GET", "HEAD"):
        status, body = 405, b""
        headers.append((b"allow", b"GET, HEAD"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
