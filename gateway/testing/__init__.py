"""Speaking to an application in a test: by communicators, without a server, or on a live one."""

from gateway.testing.application import ApplicationCommunicator
from gateway.testing.http import HttpCommunicator
from gateway.testing.live import ChannelsLiveServerTestCase
from gateway.testing.mqtt import MqttCommunicator
from gateway.testing.websocket import WebsocketCommunicator

__all__ = [
    "ApplicationCommunicator",
    "ChannelsLiveServerTestCase",
    "HttpCommunicator",
    "MqttCommunicator",
    "WebsocketCommunicator",
]
