"""The first administrator, and what is printed."""

from io import StringIO

import pytest
from django.contrib.auth import authenticate, get_user_model
from django.core.management import call_command

pytestmark = pytest.mark.django_db


def first_run(*addresses: str, program: str = ".venv/bin/gateway") -> str:
    out = StringIO()
    call_command("first_run", addresses=list(addresses), program=program, stdout=out)
    return out.getvalue()


def test_the_first_run_creates_an_administrator_whose_password_is_printed() -> None:
    text = first_run("http://127.0.0.1:8000", "mqtt://127.0.0.1:1883")

    password = text.partition("password    ")[2].split()[0]
    user = authenticate(username="admin", password=password)
    assert user is not None
    assert user.is_superuser  # type: ignore[attr-defined]


def test_with_any_user_there_it_does_and_says_nothing() -> None:
    get_user_model().objects.create_user("somebody")

    assert first_run("http://127.0.0.1:8000") == ""
    assert get_user_model().objects.count() == 1


def test_every_password_is_another_one() -> None:
    passwords = set()
    for _ in range(3):
        passwords.add(first_run("http://127.0.0.1:1").partition("password    ")[2].split()[0])
        get_user_model().objects.all().delete()

    assert len(passwords) == 3


def test_the_lines_name_what_is_really_listened_at() -> None:
    text = first_run("http://0.0.0.0:8080", "mqtt://[::]:2883", program="gateway --config /etc/gw.toml")

    assert "dashboard   http://127.0.0.1:8080/" in text
    assert "TOKEN=$(gateway --config /etc/gw.toml device add thermo-1)" in text
    assert "mosquitto_pub -h ::1 -p 2883 -u $TOKEN" in text
    assert "http://127.0.0.1:8080/api/v1/$TOKEN/telemetry" in text


def test_there_is_no_line_for_what_is_not_listened_at() -> None:
    text = first_run("http://127.0.0.1:8000")

    assert "mosquitto_pub" not in text
