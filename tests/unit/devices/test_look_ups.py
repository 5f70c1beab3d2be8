"""Questions to the database in groups: what is asked together, in which turn, what one that fails does to others."""

import asyncio
import threading
from collections.abc import AsyncIterator, Hashable

import pytest
from django.db import DataError, OperationalError
from prometheus_client import REGISTRY

from devices import look_ups
from devices.look_ups import GROUP_SIZE, LookUpError, LookUps, TooManyLookUpsError


class Database:
    """Answers each question with itself, when it is let; remembers the groups."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.unanswerable: dict[str, Exception] = {}

    def read(self, questions: dict[str, str]) -> dict[str, str]:
        self.groups.append(list(questions))
        assert self.gate.wait(60)
        for question in questions:
            if question in self.unanswerable:
                raise self.unanswerable[question]
        return questions


class Asking:
    """A queue with its database, and a stamp that a test may change."""

    def __init__(self) -> None:
        self.database = Database()
        self.stamp = 0
        self.look_ups: LookUps[str, str, str] = LookUps(self.database.read, stamp=lambda: self.stamp)

    def ask(self, question: str, source: Hashable = "one") -> "asyncio.Task[tuple[str, int]]":
        return asyncio.create_task(self.look_ups.ask(question, question, source=source))

    async def occupy(self) -> "asyncio.Task[tuple[str, int]]":
        """Has a group under way that ends when the gate opens."""
        self.database.gate.clear()
        first = self.ask("first")
        while not self.database.groups:
            await asyncio.sleep(0)
        return first

    async def asked(self, *questions: tuple[str, Hashable]) -> "list[asyncio.Task[tuple[str, int]]]":
        """Asks, and returns when all wait."""
        tasks = [self.ask(question, source) for question, source in questions]
        await asyncio.sleep(0)
        return tasks


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    asking = Asking()
    yield asking
    asking.database.gate.set()
    await asking.look_ups.close()


async def test_what_is_asked_at_once_is_one_group(asking: Asking) -> None:
    answers = await asyncio.gather(*(asking.ask(str(number)) for number in range(100)))

    assert answers == [(str(number), 0) for number in range(100)]
    assert len(asking.database.groups) == 1


async def test_what_comes_while_a_group_is_read_is_the_next(asking: Asking) -> None:
    first = await asking.occupy()
    tasks = await asking.asked(*((str(number), "one") for number in range(10)))

    asking.database.gate.set()
    await asyncio.gather(first, *tasks)

    assert asking.database.groups == [["first"], [str(number) for number in range(10)]]


async def test_a_group_has_a_bound(asking: Asking) -> None:
    await asyncio.gather(*(asking.ask(str(number)) for number in range(GROUP_SIZE + 1)))

    assert [len(group) for group in asking.database.groups] == [GROUP_SIZE, 1]


async def test_one_that_asks_thousands_waits_behind_one_that_asks_little(asking: Asking) -> None:
    first = await asking.occupy()
    many = await asking.asked(*((f"guess {number}", "guesser") for number in range(2 * GROUP_SIZE)))
    few = await asking.asked(("token", "device"))

    asking.database.gate.set()
    await asyncio.gather(first, *many, *few)

    assert "token" in asking.database.groups[1]


async def test_the_same_question_is_asked_once_while_it_waits(asking: Asking) -> None:
    first = await asking.occupy()
    tasks = await asking.asked(("a", "one"), ("a", "two"))

    asking.database.gate.set()

    assert await asyncio.gather(first, *tasks) == [("first", 0), ("a", 0), ("a", 0)]
    assert asking.database.groups == [["first"], ["a"]]


async def test_one_that_is_being_read_is_asked_again(asking: Asking) -> None:
    """What is read now may be older than what the second one that asks has to know."""
    first = await asking.occupy()
    (again,) = await asking.asked(("first", "one"))
    asking.stamp = 1

    asking.database.gate.set()

    assert await asyncio.gather(first, again) == [("first", 0), ("first", 1)]


async def test_whoever_gives_up_waiting_does_not_end_it_for_others(asking: Asking) -> None:
    first = await asking.occupy()
    tasks = await asking.asked(("a", "one"), ("a", "one"))

    tasks[0].cancel()
    asking.database.gate.set()

    assert await tasks[1] == ("a", 0)
    assert await first == ("first", 0)


@pytest.mark.parametrize("error", [DataError("no NUL"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogate")])
async def test_one_that_no_query_can_hold_does_not_spoil_the_others(asking: Asking, error: Exception) -> None:
    asking.database.unanswerable["bad"] = error

    results = await asyncio.gather(*(asking.ask(name) for name in ("a", "bad", "b")), return_exceptions=True)

    assert [results[0], results[2]] == [("a", 0), ("b", 0)]
    assert isinstance(results[1], LookUpError)


async def test_a_database_that_is_away_answers_nobody_and_the_next_group_is_tried(asking: Asking) -> None:
    asking.database.unanswerable["a"] = OperationalError("server closed the connection")

    results = await asyncio.gather(asking.ask("a"), asking.ask("b"), return_exceptions=True)

    assert [str(result) for result in results] == ["OperationalError: server closed the connection"] * 2
    assert await asking.ask("c") == ("c", 0)


async def test_one_that_does_not_answer_in_time_is_away(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look_ups, "GROUP_TIMEOUT_S", 0.0)
    asking.database.gate.clear()

    with pytest.raises(LookUpError, match="TimeoutError: no answer within 0 s"):
        await asking.ask("a")


class TestTooMany:
    @pytest.fixture(autouse=True)
    def room_for_four(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(look_ups, "MAX_WAITING", 4)

    async def test_the_newest_of_whoever_asks_most_is_refused_and_counted(self, asking: Asking) -> None:
        name = "gateway_credential_look_ups_refused_total"
        before = REGISTRY.get_sample_value(name) or 0
        first = await asking.occupy()
        guesses = await asking.asked(*((f"guess {number}", "guesser") for number in range(4)))

        tasks = await asking.asked(("guess 4", "guesser"), ("token", "device"))
        asking.database.gate.set()

        assert await tasks[1] == ("token", 0)
        results = await asyncio.gather(first, *guesses, tasks[0], return_exceptions=True)
        refused = [number for number, result in enumerate(results) if isinstance(result, TooManyLookUpsError)]
        assert refused == [4, 5]
        assert REGISTRY.get_sample_value(name) == before + 2


async def test_closing_ends_what_waits() -> None:
    asking = Asking()
    first = await asking.occupy()
    tasks = await asking.asked(("a", "one"))

    closing = asyncio.create_task(asking.look_ups.close())
    await asyncio.sleep(0)
    asking.database.gate.set()
    await closing

    results = await asyncio.gather(first, *tasks, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 2
