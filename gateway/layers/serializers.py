"""Messages to bytes and back: the formats, their registry, and the encryption over them."""

import abc
import base64
import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Any, Protocol

import msgpack
from cryptography.fernet import Fernet, MultiFernet

from gateway.layers.base import Message

CLOCK_SKEW_S = 10


class SerializerDoesNotExist(KeyError):  # noqa: N818
    """Raised when no serializer is registered for a format."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would quote it


class Serializer(Protocol):
    """What a layer needs of a serializer."""

    def serialize(self, message: Message) -> bytes:
        """`message` as bytes; raises when it holds what the format cannot."""

    def deserialize(self, message: bytes) -> Message:
        """The message of `serialize`; raises when the bytes are not one, or encrypted with another key."""


class BaseMessageSerializer(abc.ABC):
    """A format (`as_bytes`, `from_bytes`) with encryption and a random prefix around it.

    Encryption: Fernet with the SHA-256 of each key; the first key encrypts, all of them decrypt, so that keys rotate.
    """

    def __init__(
        self,
        symmetric_encryption_keys: Sequence[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
    ) -> None:
        """`random_prefix_length` bytes make equal messages distinct; `expiry` in seconds bounds a message's age."""
        self.random_prefix_length = max(0, random_prefix_length)
        self.expiry = expiry
        self.crypter: MultiFernet | None = None
        if symmetric_encryption_keys:
            if isinstance(symmetric_encryption_keys, str | bytes) or not isinstance(
                symmetric_encryption_keys, Sequence
            ):
                raise ValueError("symmetric_encryption_keys must be a list of possible keys")
            self.crypter = MultiFernet([self.make_fernet(key) for key in symmetric_encryption_keys])

    def make_fernet(self, key: str | bytes) -> Fernet:
        """The cipher for a key of any length but 0."""
        if not isinstance(key, str | bytes) or not key:
            raise ValueError("each of symmetric_encryption_keys must be a string or bytes, and not empty")
        if isinstance(key, str):
            key = key.encode()
        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest()))

    @abc.abstractmethod
    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        """`message` in this format."""

    @abc.abstractmethod
    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        """The message of `as_bytes`."""

    def serialize(self, message: Message) -> bytes:
        """Random prefix, then the encrypted message."""
        data = self.as_bytes(message)
        if self.crypter is not None:
            data = self.crypter.encrypt(data)
        if self.random_prefix_length:
            data = secrets.token_bytes(self.random_prefix_length) + data
        return data

    def deserialize(self, message: bytes) -> Message:
        """The message of `serialize`. Raises InvalidToken when no key fits or it is older than `expiry` allows."""
        data = message[self.random_prefix_length :]
        if self.crypter is not None:
            ttl = None if self.expiry is None else int(self.expiry + CLOCK_SKEW_S)
            data = self.crypter.decrypt(data, ttl)
        return self.from_bytes(data)


class JSONSerializer(BaseMessageSerializer):
    """JSON in UTF-8: readable by everybody, no bytes values."""

    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        """`message` as JSON text in UTF-8."""
        return json.dumps(message, *args, **kwargs).encode()

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        """The message of the JSON text."""
        content: Message = json.loads(message, *args, **kwargs)
        return content


class MsgPackSerializer(BaseMessageSerializer):
    """MessagePack: compact, takes bytes; tuples arrive as lists."""

    def as_bytes(self, message: Message, *args: Any, **kwargs: Any) -> bytes:
        """`message` as MessagePack."""
        data: bytes = msgpack.packb(message, *args, **kwargs)
        return data

    def from_bytes(self, message: bytes, *args: Any, **kwargs: Any) -> Message:
        """The message of the MessagePack bytes; keys of nested maps may be any scalar, as they may when packed."""
        kwargs.setdefault("strict_map_key", False)
        content: Message = msgpack.unpackb(message, *args, **kwargs)
        return content


def _is_serializer_class(candidate: object) -> bool:
    return isinstance(candidate, type) and hasattr(candidate, "serialize") and hasattr(candidate, "deserialize")


class SerializersRegistry:
    """format name -> serializer class."""

    def __init__(self) -> None:
        self._registry: dict[str, type[Serializer]] = {}

    def register_serializer(self, format: str, serializer_class: type[Serializer]) -> None:  # noqa: A002
        """Makes `format` a value of the option serializer_format. AssertionError when the class has not the methods."""
        assert _is_serializer_class(serializer_class), (
            "`serializer_class` should be a class which implements `serialize` and `deserialize` method "
            "or a subclass of `gateway.layers.serializers.BaseMessageSerializer`"
        )
        self._registry[format] = serializer_class

    def get_serializer(self, format: str, *args: Any, **kwargs: Any) -> Serializer:  # noqa: A002
        """A new serializer of `format`, or SerializerDoesNotExist."""
        try:
            serializer_class = self._registry[format]
        except KeyError:
            registered = ", ".join(sorted(map(str, self._registry)))
            raise SerializerDoesNotExist(f"no serializer is registered for {format!r}, but for {registered}") from None
        return serializer_class(*args, **kwargs)


registry = SerializersRegistry()
registry.register_serializer("json", JSONSerializer)
registry.register_serializer("msgpack", MsgPackSerializer)
