"""The pages of refusals and failures: in the frame of all others, in words, with a way on."""

from pathlib import Path

import pytest
from django.template.loader import get_template
from django.test import Client

import devices
import project
from tests.unit.devices.dashboard.conftest import MakeDevice

FOLDERS = [Path(str(app.__file__)).parent / "templates" for app in (devices, project)]
ERRORS = sorted(path.name for folder in FOLDERS for path in folder.glob("[45]*.html"))


@pytest.mark.parametrize("name", ERRORS)
def test_a_page_of_an_error_is_in_the_frame_and_needs_neither_a_request_nor_a_database(name: str) -> None:
    page = get_template(name).render({})

    assert 'class="brand"' in page
    assert "<h1></h1>" not in page
    assert page.count("<title> ·") == 0
    assert 'href="/"' in page


def test_an_address_of_nothing_says_so_and_leads_to_the_devices(watching: Client) -> None:
    for path in ("/nothing/here", "/devices/99999/"):
        answer = watching.get(path)

        assert answer.status_code == 404
        assert "Not found" in answer.content.decode()
        assert '<a class="button" href="/">' in answer.content.decode()


def test_a_form_without_its_token_is_told_what_to_do(make_device: MakeDevice) -> None:
    answer = Client(enforce_csrf_checks=True).post("/login/", {"username": "a", "password": "b"})

    assert answer.status_code == 403
    assert "This form has expired" in answer.content.decode()


def test_who_may_not_look_is_told_so_in_the_same_frame(db: None, django_user_model: type) -> None:
    client = Client()
    client.force_login(django_user_model.objects.create_user("clerk"))  # type: ignore[attr-defined]

    answer = client.get("/")

    assert answer.status_code == 403
    assert 'class="narrow error-page"' in answer.content.decode()
    assert "Log in as somebody else" in answer.content.decode()
