"""CHANNEL_LAYERS: gateway.layers.manager."""

import re
from typing import Any

import pytest

from gateway.exceptions import InvalidChannelLayerError
from gateway.layers import InMemoryChannelLayer, channel_layers, get_channel_layer

MEMORY = "gateway.layers.InMemoryChannelLayer"


class TestSettings:
    def test_layers_are_made_when_first_asked_for(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "CONFIG": {"capacity": 7}}}

        layer = get_channel_layer()

        assert isinstance(layer, InMemoryChannelLayer)
        assert layer.capacity == 7
        assert get_channel_layer() is layer
        assert get_channel_layer("other") is None
        assert "default" in channel_layers
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY}}
        assert get_channel_layer() is not layer

    def test_a_test_may_put_another_layer_there(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {}
        mine = InMemoryChannelLayer()

        assert channel_layers.set("mine", mine) is None
        assert get_channel_layer("mine") is mine
        assert channel_layers.set("mine", InMemoryChannelLayer()) is mine

    def test_a_test_backend_comes_from_its_own_config(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "TEST_CONFIG": {"expiry": 5}}, "bare": {}}

        assert channel_layers.make_test_backend("default").expiry == 5
        with pytest.raises(InvalidChannelLayerError, match="No TEST_CONFIG specified for bare"):
            channel_layers.make_test_backend("bare")

    @pytest.mark.parametrize(
        ("config", "error"),
        [
            ({}, "No BACKEND specified for default"),
            ({"BACKEND": "no.such.Layer"}, "Cannot import BACKEND 'no.such.Layer' specified for default"),
            ({"BACKEND": MEMORY, "ROUTING": "x"}, "ROUTING key found for default"),
        ],
    )
    def test_a_wrong_setting_is_named(self, settings: Any, config: dict[str, Any], error: str) -> None:
        settings.CHANNEL_LAYERS = {"default": config}

        with pytest.raises(InvalidChannelLayerError, match=re.escape(error)):
            get_channel_layer()

    def test_an_error_of_the_layer_itself_comes_through(self, settings: Any) -> None:
        settings.CHANNEL_LAYERS = {"default": {"BACKEND": MEMORY, "CONFIG": {"no_such_option": 1}}}

        with pytest.raises(TypeError, match="no_such_option"):
            get_channel_layer()
