"""Fixtures of the tests on real servers."""

from tests.support.postgres import dsn, durable, postgres_server, undated, world
from tests.support.valkey import valkey

__all__ = ["dsn", "durable", "postgres_server", "undated", "valkey", "world"]
