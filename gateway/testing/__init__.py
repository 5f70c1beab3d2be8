"""Speaking to an application in a test, without a server."""

from gateway.testing.application import ApplicationCommunicator
from gateway.testing.http import HttpCommunicator
from gateway.testing.mqtt import MqttCommunicator
from gateway.testing.websocket import WebsocketCommunicator

__all__ = ["ApplicationCommunicator", "HttpCommunicator", "MqttCommunicator", "WebsocketCommunicator"]
