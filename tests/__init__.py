"""A package, so that none of a dependency can be imported in its place: gmqtt installs one of this name."""
