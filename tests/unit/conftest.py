"""Settings of all unit tests."""

from hypothesis import settings

# Examples are bounded in number, not in time: a machine that is busy with something else must not fail a property.
settings.register_profile("fieldgate", deadline=None)
settings.load_profile("fieldgate")
