"""/metrics, /healthz and /readyz."""

import asyncio
import json
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from gateway.health import Health, Lifecycle, Metrics, NotReadyError, Readiness
from protocols.asgi import Application, Event, Scope
from protocols.server import ProtocolServer


async def ask(application: Application, method: str = "GET", **state: Any) -> tuple[int, dict[str, str], bytes]:
    sent: list[Event] = []

    async def send(event: Event) -> None:
        sent.append(event)

    async def receive() -> Event:
        raise AssertionError("nothing to receive")

    await application({"type": "http", "method": method, "path": "/", "headers": [], "state": state}, receive, send)
    start, body = sent
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, body["body"]


async def works(scope: Scope) -> None:
    pass


async def refuses(scope: Scope) -> None:
    raise ConnectionRefusedError("host=db.internal user=gateway")


async def hangs(scope: Scope) -> None:
    await asyncio.Event().wait()


async def test_metrics_are_those_of_the_registry_in_the_text_format() -> None:
    registry = CollectorRegistry()
    Counter("gateway_test", "A test.", registry=registry).inc(3)

    status, headers, body = await ask(Metrics(registry))

    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert b"gateway_test_total 3.0" in body


async def test_a_living_process_is_healthy() -> None:
    assert (await ask(Health()))[::2] == (200, b"ok\n")


async def test_a_gateway_is_ready_when_it_serves_and_every_check_passes() -> None:
    status, _, body = await ask(Readiness({"database": works}), lifecycle=Lifecycle(is_ready=True))

    assert status == 200
    assert json.loads(body) == {"database": "ok", "server": "ok"}


async def test_a_gateway_is_not_ready_while_it_starts_or_stops() -> None:
    status, _, body = await ask(Readiness({}), lifecycle=Lifecycle())

    assert status == 503
    assert json.loads(body) == {"server": "starting or stopping"}


async def test_a_failed_check_is_named_without_its_details() -> None:
    status, _, body = await ask(Readiness({"database": refuses, "disk": works}))

    assert status == 503
    assert json.loads(body) == {"database": "ConnectionRefusedError", "disk": "ok"}


async def test_a_check_may_say_what_everybody_may_read() -> None:
    async def waits(scope: Scope) -> None:
        raise NotReadyError(f"{scope['state']['number']} wait")

    status, _, body = await ask(Readiness({"readings": waits}), number=7)

    assert (status, json.loads(body)) == (503, {"readings": "7 wait"})


async def test_a_check_that_hangs_has_failed() -> None:
    status, _, body = await ask(Readiness({"database": hangs}, timeout_s=0.01))

    assert (status, json.loads(body)) == (503, {"database": "no answer within 0.01 s"})


async def test_a_check_that_hangs_runs_once_however_often_somebody_asks() -> None:
    begun = 0

    async def hangs_until_released(scope: Scope) -> None:
        nonlocal begun
        begun += 1
        await released.wait()

    released = asyncio.Event()
    readiness = Readiness({"database": hangs_until_released}, timeout_s=0.01)
    for _ in range(3):
        assert (await ask(readiness))[0] == 503
    assert begun == 1

    released.set()
    await asyncio.sleep(0)
    readiness.timeout_s = 10

    assert (await ask(readiness))[0] == 200


async def test_what_is_only_watched_is_told_and_takes_nothing_out_of_service() -> None:
    status, _, body = await ask(
        Readiness({"database": works}, watched={"layer": refuses, "other": hangs}, timeout_s=0.01)
    )

    assert status == 200
    assert json.loads(body) == {
        "database": "ok",
        "layer": "ConnectionRefusedError",
        "other": "no answer within 0.01 s",
    }


async def test_a_server_that_cannot_do_its_work_makes_the_process_unready_and_what_it_says_else_does_not() -> None:
    class Server(ProtocolServer):
        protocol = "stand-in"
        addresses = ()

        async def start(self) -> None: ...

        def stop_accepting(self) -> None: ...

        async def close(self) -> None: ...

        def failures(self) -> dict[str, str]:
            return {"sessions": "cannot be kept"}

        def status(self) -> dict[str, str]:
            return {"bridge": "not connected"}

    lifecycle = Lifecycle(is_ready=True, servers=[Server(works, [], state={})])
    status, _, body = await ask(Readiness({}), lifecycle=lifecycle)
    assert (status, json.loads(body)) == (
        503,
        {"server": "ok", "sessions": "cannot be kept", "bridge": "not connected"},
    )


async def test_head_has_no_body_but_its_length() -> None:
    _, headers, body = await ask(Health(), "HEAD")

    assert (body, headers["content-length"]) == (b"", "3")


async def test_other_methods_are_not_allowed() -> None:
    status, headers, _ = await ask(Health(), "POST")

    assert (status, headers["allow"]) == (405, "GET, HEAD")


async def test_nobody_may_cache_an_answer() -> None:
    assert (await ask(Health()))[1]["cache-control"] == "no-store"
