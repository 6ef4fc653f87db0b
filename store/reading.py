"""Everything that only reads for somebody outside: on connections of its own.

Lists, searches and reports must not take the connections that the flow needs, and they may go to a
replica one day: the pool is small, read-only, and every statement ends within 2 s.
"""

from __future__ import annotations

from dataclasses import dataclass

from store.attempts import AttemptReader
from store.channel_news import ChannelNewsStore
from store.database import Pool, open_pool
from store.inbound_read import InboundReader
from store.lists import Lists
from store.pull import Pull
from store.read import Reader
from store.seal import Keyring
from store.told import Tellings
from store.usage import Usage

_CONNECTIONS = 3


@dataclass(frozen=True, slots=True)
class Reading:
    """The reads of the API's lists."""

    pool: Pool
    reader: Reader
    lists: Lists
    pull: Pull
    usage: Usage
    tellings: Tellings
    inbound: InboundReader
    attempts: AttemptReader
    news: ChannelNewsStore


async def open_reading(dsn: str, keyring: Keyring) -> Reading:
    """Join them on a pool of their own; raises StoreUnavailable when PostgreSQL is away."""
    pool = await open_pool(dsn, size=_CONNECTIONS, is_read_only=True)
    return Reading(
        pool,
        Reader(pool, keyring),
        Lists(pool),
        Pull(pool),
        Usage(pool),
        Tellings(pool),
        InboundReader(pool, keyring),
        AttemptReader(pool, keyring),
        ChannelNewsStore(pool),
    )
