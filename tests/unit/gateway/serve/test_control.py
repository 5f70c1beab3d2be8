"""The control socket: a command line asks, the gateway on that data directory answers with rows."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.exceptions import GatewayError
from gateway.serve.control import MAX_CONNECTIONS, SOCKET_NAME, ask, listening
from protocols.server import Command, CommandError, Row

DEADLINE_S = 60


async def echo(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
    for number in range(arguments["times"]):
        yield {"number": number}


async def refuse(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
    yield {"before": True}
    raise CommandError("there is no such client")


async def fail(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
    yield {"before": True}
    raise RuntimeError("secret")


COMMANDS: Mapping[str, Command] = {"echo": echo, "refuse": refuse, "fail": fail}


async def asked(data_dir: Path, command: str, **arguments: Any) -> list[Row]:
    """As the command line does, which blocks."""
    return await asyncio.to_thread(lambda: list(ask(data_dir, command, **arguments)))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def raw(data_dir: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(data_dir / SOCKET_NAME)
    writer.write(request)
    async with asyncio.timeout(DEADLINE_S):
        answer = await reader.read()
    await hang_up(writer)
    return answer


async def test_the_answer_is_rows(tmp_path: Path) -> None:
    async with listening(tmp_path, COMMANDS):
        assert await asked(tmp_path, "echo", times=3) == [{"number": 0}, {"number": 1}, {"number": 2}]
        assert await asked(tmp_path, "echo", times=0) == []


async def test_one_that_is_longer_than_the_buffers_comes_whole(tmp_path: Path) -> None:
    async with listening(tmp_path, COMMANDS):
        assert len(await asked(tmp_path, "echo", times=20_000)) == 20_000


async def test_a_refusal_is_told_in_its_words(tmp_path: Path) -> None:
    async with listening(tmp_path, COMMANDS):
        with pytest.raises(GatewayError, match=r"^there is no such client$"):
            await asked(tmp_path, "refuse")
        with pytest.raises(GatewayError, match="has no command 'nonsense'"):
            await asked(tmp_path, "nonsense")


async def test_a_failure_is_told_in_the_log_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with listening(tmp_path, COMMANDS):
        with pytest.raises(GatewayError, match=r"^the command failed; the gateway's log says why$"):
            await asked(tmp_path, "fail")
    assert "the command fail failed" in caplog.text


@pytest.mark.parametrize(
    "request_line", [b"", b"\n", b"{}\n", b'{"command": 1}\n', b'{"command": "echo", "arguments": []}\n', b"[]\n"]
)
async def test_what_is_no_request_is_refused(tmp_path: Path, request_line: bytes) -> None:
    async with listening(tmp_path, COMMANDS):
        answer = await raw(tmp_path, request_line or b"\n")

    assert json.loads(answer) == {"error": "not a request"}


async def test_one_without_end_is_not_read_to_it(tmp_path: Path) -> None:
    async with listening(tmp_path, COMMANDS):
        assert await raw(tmp_path, b"x" * 200_000) == b""


async def test_a_command_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    ended = asyncio.Event()

    async def endless(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        try:
            yield {}
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with listening(tmp_path, {"endless": endless}):
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
        writer.write(b'{"command": "endless"}\n')
        await reader.readline()
        await hang_up(writer)
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()


async def test_who_asks_is_told_that_the_gateway_stops(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endless(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        yield {}
        begun.set()
        await asyncio.Event().wait()

    async with listening(tmp_path, {"endless": endless}):
        answer = asyncio.ensure_future(asked(tmp_path, "endless", endless=True))
        async with asyncio.timeout(DEADLINE_S):
            await begun.wait()

    with pytest.raises(GatewayError, match="has stopped"):
        await answer


async def test_only_so_many_commands_are_at_work_at_a_time(tmp_path: Path) -> None:
    async def endless(arguments: Mapping[str, Any]) -> AsyncGenerator[Row, None]:
        yield {}
        await asyncio.Event().wait()

    async with listening(tmp_path, {"endless": endless}):
        writers = []
        for _ in range(MAX_CONNECTIONS):
            reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
            writer.write(b'{"command": "endless"}\n')
            await reader.readline()
            writers.append(writer)

        answer = await raw(tmp_path, b'{"command": "endless"}\n')

        assert json.loads(answer) == {"error": "32 commands are at work already"}
        for writer in writers:
            await hang_up(writer)


async def test_only_the_user_of_the_gateway_can_ask(tmp_path: Path) -> None:
    async with listening(tmp_path, COMMANDS):
        assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600


async def test_a_socket_that_a_killed_gateway_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / SOCKET_NAME).write_text("")

    async with listening(tmp_path, COMMANDS):
        assert await asked(tmp_path, "echo", times=1) == [{"number": 0}]

    assert not (tmp_path / SOCKET_NAME).exists()


async def test_a_data_directory_may_have_a_longer_path_than_a_socket(tmp_path: Path) -> None:
    data_dir = tmp_path / ("d" * 100)
    data_dir.mkdir()
    assert len(os.fsencode(data_dir)) > 108

    async with listening(data_dir, COMMANDS):
        assert await asked(data_dir, "echo", times=1) == [{"number": 0}]


@pytest.mark.parametrize("left_over", [False, True])
def test_where_no_gateway_runs_it_is_said_so(tmp_path: Path, left_over: bool) -> None:
    if left_over:
        import socket

        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(tmp_path / SOCKET_NAME))

    with pytest.raises(GatewayError, match=f"^no gateway runs on the data directory {tmp_path}$"):
        list(ask(tmp_path, "echo", times=1))
