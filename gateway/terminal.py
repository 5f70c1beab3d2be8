"""Output of commands: lines in which whatever a device or a person has chosen is shown as plain text.

A name, a key or a value may hold escape sequences, line breaks and marks that turn the direction of writing round; a
terminal obeys them. Every command writes by these functions, which a rule of the linter holds (click.echo is banned).
"""

from typing import TypeAlias

import click

Field: TypeAlias = object
"""Anything; it is written as `str` of it."""


def echo(*fields: Field, err: bool = False) -> None:
    """Writes one line to standard output, or to standard error: the fields, with tabs between them.

    What is not printable in a field, line breaks and tabs included, is written as an escape of Python's: "\\x1b".
    """
    click.echo("\t".join(as_text(str(field)) for field in fields), err=err)  # noqa: TID251


def as_text(text: str) -> str:
    """`text` with an escape for each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def write(text: str, *, err: bool = False) -> None:
    """Writes lines of our own, line breaks included; what others have chosen is escaped in them already."""
    click.echo(text, nl=not text.endswith("\n"), err=err)  # noqa: TID251
