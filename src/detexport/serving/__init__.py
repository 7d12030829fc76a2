"""Serve an artifact over HTTP, and write what other servers need to serve it."""
