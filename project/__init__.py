"""The Django project that `gateway serve` runs: settings, URLs and the ASGI application."""
