"""/metrics, /healthz and /readyz, which monitoring asks for: ASGI applications without Django's stack.

/healthz answers as long as the event loop turns. /readyz says 503 while the process starts, stops, has no database or
cannot keep what it should: a load balancer then sends nobody here. Each check has a time limit, all run at once, and
none runs twice at the same time, however often somebody asks while it hangs. What is only watched, and what protocol
servers say of themselves, is in the answer too, and takes no process out of service. /metrics is in Prometheus' text
format; it holds no secret and no device's name.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from django.db import DEFAULT_DB_ALIAS, connections
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.databases.thread import DatabaseThread
from gateway.layers.base import LayerUnavailableError
from gateway.layers.manager import check_layers
from protocols.asgi import Receive, Scope, Send
from protocols.server import ProtocolServer

Check: TypeAlias = Callable[[Scope], Awaitable[None]]
"""Returns if what it checks works, raises if not. `scope` is that of the request, with the lifespan state."""


class NotReadyError(Exception):
    """Raised by a check with a text that everybody may read; of any other exception only the class is shown."""


@dataclass(slots=True)
class Lifecycle:
    """How far the process is; the supervisor keeps it, and every scope has it as state["lifecycle"]."""

    is_ready: bool = False
    servers: Sequence[ProtocolServer] = ()
    """Those that were started, which add to /readyz."""


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

    def __init__(
        self,
        checks: Mapping[str, Check],
        *,
        watched: Mapping[str, Check] = MappingProxyType({}),
        timeout_s: float = 3.0,
    ) -> None:
        """While one of `checks` fails the process is not ready; those `watched` are only shown."""
        self.checks = checks
        self.watched = watched
        self.timeout_s = timeout_s
        self._running: dict[str, asyncio.Task[str]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        every = {**self.checks, **self.watched}
        results = await asyncio.gather(*(self._outcome(name, check, scope) for name, check in every.items()))
        outcomes = dict(zip(every, results, strict=True))
        report = {name: outcomes[name] for name in self.checks}
        lifecycle: Lifecycle | None = scope.get("state", {}).get("lifecycle")
        if lifecycle is not None:
            report["server"] = "ok" if lifecycle.is_ready else "starting or stopping"
        servers = lifecycle.servers if lifecycle is not None else ()
        for server in servers:
            report.update(server.failures())
        is_ready = all(outcome == "ok" for outcome in report.values())
        report |= {name: outcomes[name] for name in self.watched}
        for server in servers:
            report.update(server.status())
        await respond(scope, send, 200 if is_ready else 503, json.dumps(report).encode() + b"\n", "application/json")

    async def _outcome(self, name: str, check: Check, scope: Scope) -> str:
        running = self._running.get(name)
        if running is None:
            running = self._running[name] = asyncio.create_task(_result(check, scope))
            running.add_done_callback(lambda _: self._running.pop(name))
        try:
            async with asyncio.timeout(self.timeout_s):
                return await asyncio.shield(running)
        except TimeoutError:
            return f"no answer within {self.timeout_s:g} s"


async def _result(check: Check, scope: Scope) -> str:
    try:
        await check(scope)
    except NotReadyError as error:
        return str(error)
    except Exception as error:  # whatever a driver raises, the answer is 503
        return type(error).__name__  # its text may name hosts and users
    return "ok"


class DatabaseAnswers:
    """A check whether the default database answers through a new connection. Raises what its driver raises."""

    def __init__(self) -> None:
        self._thread = DatabaseThread("readiness")

    async def __call__(self, scope: Scope) -> None:
        await self._thread.call(_ask_database, lambda why: None)


def _ask_database() -> None:
    try:
        with connections[DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute("SELECT 1")
    finally:
        connections[DEFAULT_DB_ALIAS].close()


async def layers_answer(scope: Scope) -> None:
    """Raises NotReadyError if a channel layer's server does not answer."""
    try:
        await check_layers()
    except LayerUnavailableError:
        raise NotReadyError("not available; dashboards of other processes fall behind") from None


async def respond(scope: Scope, send: Send, status: int, body: bytes, content_type: str) -> None:
    """Sends a whole response that nobody may cache; without the body for HEAD, 405 for what is neither GET nor HEAD."""
    headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
    if scope["method"] not in ("GET", "HEAD"):
        status, body = 405, b""
        headers.append((b"allow", b"GET, HEAD"))
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
