"""Options: frozen dataclasses whose fields are declared by `option`, and the one check of their values.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class LampOptions:
        max_lamps: int = option(100, "lamps at a time; one more is refused", at_least=1)

        def __post_init__(self) -> None:
            check_options(self)

The configuration checks each value by `checked` as it is read, so that a fault is shown where it was written;
`check_options` does the same for options that are made by code, and is followed by what holds between them.
"""

from collections.abc import Callable
from dataclasses import MISSING, Field, field, fields
from typing import Any, Final

_INFINITE: Final = float("inf")


def option(
    default: Any = MISSING,
    help_text: str = "",
    *,
    at_least: float = -_INFINITE,
    at_most: float = _INFINITE,
    more_than: float = -_INFINITE,
    check: Callable[[Any], Any] | None = None,
    secret: bool = False,
    url: bool = False,
) -> Any:
    """A field of an options dataclass. Without `default` it has to be given; `help_text` is its manual, with units.

    `check` gets a value and returns it as it is kept, or raises ValueError with what is wrong with it. None, the
    default of an option that may be left out, is not checked. A `secret` is never shown, a `url` only without the
    password in it; both may be read from a file that an environment variable names.
    """
    return field(
        default=default,
        metadata={
            "help": help_text,
            "at_least": at_least,
            "at_most": at_most,
            "more_than": more_than,
            "check": check,
            "secret": secret,
            "url": url,
        },
    )


def checked(declared: "Field[Any]", value: Any) -> Any:
    """The value of a field as it is kept. Raises ValueError: "must be at least 1, not 0"."""
    rules = declared.metadata
    if value is None or not rules:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or value in (_INFINITE, -_INFINITE):
            raise ValueError(f"must be a finite number, not {value!r}")
        if value < rules["at_least"]:
            raise ValueError(f"must be at least {rules['at_least']}, not {value!r}")
        if value > rules["at_most"]:
            raise ValueError(f"must be at most {rules['at_most']}, not {value!r}")
        if value <= rules["more_than"]:
            raise ValueError(f"must be more than {rules['more_than']}, not {value!r}")
    return value if rules["check"] is None else rules["check"](value)


def check_options(options: Any) -> None:
    """For the __post_init__ of an options dataclass: checks every field. Raises ValueError, with the field's name."""
    for declared in fields(options):
        value = getattr(options, declared.name)
        try:
            kept = checked(declared, value)
        except ValueError as error:
            raise ValueError(f"{declared.name}: {error}") from None
        if kept is not value:
            object.__setattr__(options, declared.name, kept)  # while it is being made
