"""Django's SQLite backend for a server that keeps its connections: ENGINE = "gateway.databases.sqlite"."""
