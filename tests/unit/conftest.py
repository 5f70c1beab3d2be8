"""Settings of all unit tests."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher
from hypothesis import settings

# Examples are bounded in number, not in time: a machine that is busy with something else must not fail a property.
settings.register_profile("fieldgate", deadline=None)
settings.load_profile("fieldgate")

# As many as Django has them take half a second of a processor for each user that a test makes, and each login.
PBKDF2PasswordHasher.iterations = 1_000
