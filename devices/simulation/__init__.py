"""A simulated fleet, for `gateway simulate`: its devices in the database, a client for each, and what becomes of what
they send."""
