"""The configuration store in memory, for tests of `smsgw apply`."""

from __future__ import annotations

from store.config import ConfigMovedError
from store.objects import Removal, StoredObject


class Store:
    """With the real one's rules."""

    def __init__(self):
        self.objects = {}
        self.number = 0
        self.given = 0
        self.revoked = set()
        self.authors = []
        self.meddlers = []  # each is called once, before a write

    async def standing(self):
        return self.number, dict(self.objects)

    async def revoked_key_ids(self):
        return frozenset(self.revoked)

    async def apply(self, writes, author, based_on=None):
        if self.meddlers:
            self.meddlers.pop(0)()
        if based_on is not None and based_on != self.number:
            raise ConfigMovedError("meanwhile")
        self.authors.append(author)
        self.number += bool(writes)
        for one in writes:
            known = self.objects.get((one.kind, one.name))
            if isinstance(one, Removal):
                assert known is not None
                del self.objects[one.kind, one.name]
                if one.kind == "api_key":
                    self.revoked.add(known.spec["key_id"])
                continue
            if known is None:
                self.given += 1
            self.objects[one.kind, one.name] = StoredObject(
                known.id if known else self.given,
                self.number,
                dict(one.spec),
                dict(one.secrets),
                one.kind,
                one.name,
            )
        return self.number
