"""How commands say in the database who has given them."""

import getpass
from typing import Final

MAX_LENGTH: Final = 150
"""What the columns have room for: devices.models.Attribute.changed_by, Command.created_by."""


def author() -> str:
    """The user of this process, as an attribute or a command has who has set or sent it."""
    return f"command line: {getpass.getuser()}"[:MAX_LENGTH]
