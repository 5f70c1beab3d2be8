"""Middleware that refuses connections."""
