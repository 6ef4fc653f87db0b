"""Fixtures of the tests on real servers."""

from tests.support.postgres import dsn, postgres_server, world

__all__ = ["dsn", "postgres_server", "world"]
