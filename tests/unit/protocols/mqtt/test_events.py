"""docs/events.md and protocols/mqtt/events.py say the same: each event with its keys, which of them may be missing."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from protocols.mqtt import events
from protocols.mqtt.events import FROM_APPLICATION, TO_APPLICATION, EventKind, MqttScope, SubscriptionRequest

ROOT = Path(__file__).parents[4]
DOCUMENT = (ROOT / "docs" / "events.md").read_text()

DIRECTIONS = {"To the application": TO_APPLICATION, "From the application": FROM_APPLICATION}
NAMES = {"mqtt", *TO_APPLICATION, *FROM_APPLICATION}
KINDS = [
    pytest.param(kind, id=f"{name} {where}") for where, kinds in DIRECTIONS.items() for name, kind in kinds.items()
]


def section(heading: str) -> str:
    return DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def keys(text: str) -> dict[str, bool]:
    """The keys of the first table in a text, and whether each may be missing."""
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", text.partition("\n|---|---|---|\n")[2].partition("\n\n")[0], re.M)
    return {key: "optional" in kind for names, kind in rows for key in re.findall(r"`(\w+)`", names)}


def documented(heading: str) -> dict[str, dict[str, bool]]:
    """The events of a section, each with its keys."""
    parts = re.split(r"^\*\*`(mqtt\.\w+)`\*\*: ", section(heading), flags=re.MULTILINE)
    return {name: keys(text) for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def typed(cls: type[Any]) -> dict[str, bool]:
    """The keys of a TypedDict."""
    return {key: key in cls.__optional_keys__ for key in get_type_hints(cls) if key != "type"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("heading", DIRECTIONS)
def test_every_event_of_the_contract_has_a_type_with_its_keys(heading: str) -> None:
    assert documented(heading) == {name: typed(kind.keys) for name, kind in DIRECTIONS[heading].items()}


def test_the_scope_of_the_contract_has_the_keys_of_its_type() -> None:
    assert keys(section("Connection scope")) == typed(MqttScope) | {"type": False}


def test_the_contract_shows_a_subscription_with_the_keys_of_its_type() -> None:
    [shown] = re.findall(r"^\| `subscriptions` \| list of dict \| `\{(.+?)\}`", DOCUMENT, re.MULTILINE)

    assert set(re.findall(r'"(\w+)":', shown)) == set(typed(SubscriptionRequest))


@pytest.mark.parametrize("kind", KINDS)
def test_the_maker_of_an_event_takes_exactly_the_keys_of_its_type(kind: EventKind) -> None:
    parameters = inspect.signature(kind.make).parameters.values()

    assert {one.name for one in parameters} == set(typed(kind.keys))
    assert {one.kind for one in parameters} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("kind", KINDS)
def test_the_maker_of_an_event_gives_each_key_the_value_of_its_argument(kind: EventKind) -> None:
    values: dict[str, Any] = {key: number for number, key in enumerate(typed(kind.keys), 1)}

    made = kind.make(**values)

    assert {key: value for key, value in made.items() if key != "type"} == values
    assert made["type"] == get_type_hints(kind.keys)["type"].__args__[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_without_an_optional_key_has_the_others_alone(kind: EventKind) -> None:
    required = {key: 1 for key, optional in typed(kind.keys).items() if not optional}

    assert set(kind.make(**required)) == {"type", *required}


def test_a_shared_subscription_is_asked_about_by_the_filter_inside() -> None:
    made = events.subscription_request("$share/all/a/+", 1)

    assert (made["share_name"], made["topic_filter"]) == ("all", "a/+")


def untyped_events(source: str) -> Iterator[int]:
    """The lines of dicts that are events or scopes of the contract, without a type by which their keys are checked."""
    tree = ast.parse(source)
    typed_dicts = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and hasattr(events, ast.unparse(node.annotation))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and id(node) not in typed_dicts:
            for key, value in zip(node.keys, node.values, strict=True):
                if key is not None and ast.unparse(key) == "'type'" and ast.unparse(value).strip("'") in NAMES:
                    yield node.lineno


def test_no_event_is_written_out_without_its_type() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for package in ("protocols", "gateway", "devices")
        for file in (ROOT / package).rglob("*.py")
        if file != ROOT / "protocols/mqtt/events.py"
        for line in untyped_events(file.read_text())
    ]

    assert found == []


@pytest.mark.parametrize(
    "literal", ['{"type": "mqtt.ack", "ack_id": 1}', '{"ack_id": 1, **more, "type": "mqtt.publish"}']
)
def test_an_event_that_is_written_out_is_found_unless_it_has_its_type(literal: str) -> None:
    assert list(untyped_events(f"send({literal})"))
    assert not list(untyped_events(f"event: AckEvent = {literal}"))
