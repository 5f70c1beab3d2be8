"""What the pages ask a database for that Django has no name for, the same on SQLite and PostgreSQL."""

import re
from functools import reduce
from operator import and_, or_
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Func, IntegerField, Q, QuerySet
from django.db.models.functions import Substr
from django.db.models.sql.compiler import SQLCompiler

from devices.models import LatestValue
from devices.values import HEAD


def heads(values: "QuerySet[Any]", *fields: str) -> Any:
    """A values_list of stored values: `fields`, number, all that devices.values.shown needs of the text, and its bytes.

    Cut by the database: 500 values of 250 KB each would else be 125 MB in this process to show a few lines.
    """
    cut = values.annotate(head=Substr("text", 1, HEAD), whole_bytes=ByteLength("text"))
    return cut.values_list(*fields, "number", "head", "whole_bytes")


class ByteLength(Func):
    """How many bytes a text has in UTF-8. It does not count characters, for which a database reads them all."""

    function = "octet_length"
    output_field = IntegerField()

    def as_sqlite(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """octet_length() came with SQLite 3.43."""
        return self.as_sql(compiler, connection, template="length(CAST(%(expressions)s AS BLOB))", **context)


class CodePoints(Func):
    """A text in the order of its code points, which is Python's; PostgreSQL's own order is that of a language."""

    template = "%(expressions)s"

    def as_postgresql(self, compiler: SQLCompiler, connection: BaseDatabaseWrapper, **context: Any) -> Any:
        """SQLite compares bytes, unless told otherwise."""
        return self.as_sql(compiler, connection, template='%(expressions)s COLLATE "C"', **context)


def keys_ahead(device_id: int, words: str = "") -> "QuerySet[LatestValue, str]":
    """The names, in their order, of a device's keys (with these `words`) of which all readings are too far ahead of the
    gateway's clock, so that there is no latest value to be shown."""
    shown = LatestValue.objects.filter(device_id=device_id).values("pk")
    ahead = LatestValue.with_future.filter(contains_words(words, "key__name"), device_id=device_id).exclude(
        pk__in=shown
    )
    return ahead.order_by(CodePoints("key__name")).values_list("key__name", flat=True)


def contains_words(text: str, *fields: str) -> Q:
    """Whether each word of `text` is in one of `fields`, in upper or lower case of any script."""
    words = [any_case(word) for word in text.split()]
    return reduce(and_, (reduce(or_, (Q(**{f"{field}__regex": word}) for field in fields)) for word in words), Q())


def any_case(word: str) -> str:
    """A regular expression for `word` in any case.

    The databases' own comparison without case knows ASCII alone: SQLite's always, PostgreSQL's in the locale C.
    """
    return "".join(_either(character) for character in word)


def _either(character: str) -> str:
    variants = {character, character.lower(), character.upper(), character.casefold()}
    letters = sorted(variant for variant in variants if len(variant) == 1)
    return f"[{''.join(letters)}]" if len(letters) > 1 else re.escape(character)
