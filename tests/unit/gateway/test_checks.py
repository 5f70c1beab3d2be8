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


def test_wrong_options_of_the_log_and_of_presence_are_errors_too(settings: Any) -> None:
    redis = "gateway.layers.redis.RedisChannelLayer"
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": redis, "LOG": {"lenght": 5}},
        "other": {"BACKEND": redis, "PRESENCE": {"lease_s": "10"}},
    }
    messages = [message for message in run_checks() if message.id == "gateway.E002"]

    assert ["lenght" in messages[0].msg, "lease_s" in messages[1].msg] == [True, True]


def test_options_beside_config_are_a_warning(settings: Any) -> None:
    settings.CHANNEL_LAYERS = {
        "default": {"BACKEND": "gateway.layers.InMemoryChannelLayer", "TEST_CONFIG": {}, "capacity": 5}
    }
    warnings = [message for message in run_checks() if message.id == "gateway.W001"]

    assert [message.msg for message in warnings] == [
        "CHANNEL_LAYERS['default'] has the key 'capacity', which means nothing."
    ]
