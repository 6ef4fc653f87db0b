"""Fixtures of the tests on real servers."""

from tests.support.postgres import dsn, postgres_server, world
from tests.support.valkey import valkey

__all__ = ["dsn", "postgres_server", "valkey", "world"]
