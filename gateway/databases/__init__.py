"""Django's databases for a server that keeps its connections open."""
