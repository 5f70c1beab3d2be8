"""What `manage.py check` says of the framework's settings."""

from typing import Any

from django.core.checks import run_checks


def ids() -> list[str | None]:
    return [message.id for message in run_checks() if str(message.id).startswith("gateway.")]


def test_settings_that_are_right_pass() -> None:
    assert ids() == []


def test_the_app_comes_before_staticfiles(settings: Any) -> None:
    others = [app for app in settings.INSTALLED_APPS if app != "gateway"]
    settings.INSTALLED_APPS = [*others, "gateway"]
    assert ids() == ["gateway.E001"]


def test_a_layer_that_cannot_be_made_is_an_error_before_the_first_message(settings: Any) -> None:
    redis = "gateway.layers.redis.RedisChannelLayer"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "nowhere.Layer"},
        "hosts": {"BACKEND": redis, "CONFIG": {"hosts": "redis://localhost"}},
        "option": {"BACKEND": redis, "CONFIG": {"unknown": 1}},
        "good": {"BACKEND": redis, "CONFIG": {"hosts": ["redis://localhost"]}},
    }
    messages = [message for message in run_checks() if message.id == "gateway.E002"]

    assert [message.msg.split(" ")[0] for message in messages] == [
        f"CHANNEL_LAYERS['{alias}']" for alias in ("default", "hosts", "option")
    ]
    assert "Cannot import BACKEND 'nowhere.Layer'" in messages[0].msg
    assert "You must pass a list of Redis hosts" in messages[1].msg
