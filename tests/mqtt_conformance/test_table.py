"""docs/mqtt-conformance.md is what the marks on the tests say, and no statement is without a test."""

from tests.mqtt_conformance.table import PAGE, marks, page, statements


def test_every_statement_that_binds_us_has_a_test() -> None:
    shown = marks()

    assert [number for number, one in statements().items() if one.binds_us and number not in shown] == []


def test_every_mark_names_a_statement() -> None:
    assert sorted(marks().keys() - statements().keys()) == []


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(), "run: python tests/mqtt_conformance/table.py"
