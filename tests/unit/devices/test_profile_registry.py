"""Profiles come by entry points, also from distributions of others."""

from pathlib import Path

import pytest
from django.core.exceptions import ValidationError

from devices.client_certificates import Holder
from devices.credentials import Denied, DeviceDirectory
from devices.models import DeviceType
from devices.profiles import Profile, UnknownProfileError, installed_profiles, profile_names, profile_of
from devices.profiles.thingsboard import ThingsBoard
from tests.support.profiles import install_profile


def test_a_profile_is_found_by_its_name_and_is_one_object() -> None:
    assert isinstance(profile_of("thingsboard"), ThingsBoard)
    assert profile_of("thingsboard") is profile_of("thingsboard")
    assert "thingsboard" in profile_names()


@pytest.mark.parametrize("name", installed_profiles())
def test_each_has_all_of_a_profile(name: str) -> None:
    assert set(Profile.__annotations__) <= set(dir(profile_of(name)))


def test_an_unknown_name_is_told_with_the_nearest_that_is_known() -> None:
    with pytest.raises(UnknownProfileError, match="no profile 'thingsbord' is installed; did you mean 'thingsboard'"):
        profile_of("thingsbord")
    with pytest.raises(UnknownProfileError, match=r"no profile 'x' is installed; known: .*thingsboard"):
        profile_of("x")


def test_a_device_type_is_not_saved_with_one() -> None:
    with pytest.raises(ValidationError, match="did you mean 'thingsboard'"):
        DeviceType(name="pump", profile="thingsbord").clean_fields()


async def test_a_device_whose_profile_is_gone_is_kept_out_and_the_log_says_why() -> None:
    holder = Holder("token", None, 7, "pump-1", True, "thingsbord")
    directory = DeviceDirectory(read=lambda questions: dict.fromkeys(questions, holder))

    found = await directory.authenticate("a" * 32)

    assert isinstance(found, Denied)
    assert found.device_id == 7
    assert "did you mean 'thingsboard'" in str(found)
    await directory.close()


def test_another_distribution_adds_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from devices.profiles.thingsboard import ThingsBoard\n\n\nclass Acme(ThingsBoard):\n    pass\n"
    install_profile(tmp_path, "acme", source, "Acme")
    monkeypatch.syspath_prepend(tmp_path)
    installed_profiles.cache_clear()
    try:
        assert type(profile_of("acme")).__module__ == "acme_profile"
        assert "acme" in profile_names()
    finally:
        installed_profiles.cache_clear()
