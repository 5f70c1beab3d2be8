"""Sessions in Django's own table, with the real reason when one cannot be written."""

from django.contrib.sessions.backends import db
from django.contrib.sessions.backends.base import UpdateError
from django.db import InterfaceError, InternalError, OperationalError


class SessionStore(db.SessionStore):
    """Django's, for SESSION_ENGINE = "project.sessions".

    Django takes every failure to write a session for a logout in the meantime, and answers 400, "the request's session
    was deleted". Here a database that is locked, read-only or away raises what its driver raises.
    """

    def save(self, must_create: bool = False) -> None:
        """Raises UpdateError for a session that is not there any more."""
        try:
            super().save(must_create=must_create)
        except UpdateError as error:
            raise _reason(error) from None

    async def asave(self, must_create: bool = False) -> None:
        """As `save`."""
        try:
            await super().asave(must_create=must_create)
        except UpdateError as error:
            raise _reason(error) from None


def _reason(error: UpdateError) -> Exception:
    outage = error.__context__
    return outage if isinstance(outage, OperationalError | InternalError | InterfaceError) else error
