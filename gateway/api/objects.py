"""What the routes of one kind of configuration object share: read, list, change under the lock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import Response

from gateway.api.admin import VERSION
from gateway.api.desk import (
    Desk,
    check_if_match,
    id_in,
    list_response,
    object_response,
    private_response,
)
from gateway.api.fields import Checked
from gateway.api.filters import PAGING
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.reply import not_found
from gateway.document import Wanted
from gateway.entries import Section, check_entry
from sms.config import ApiKey
from store.objects import PREFIXES, Change, StoredObject, Upsert

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

Views = list[dict[str, Any]]
Specs = Mapping[tuple[str, str], dict[str, Any]]  # by kind and name
Decide = Callable[[Change, StoredObject], Awaitable[StoredObject]]


class Stored(ABC):
    """One kind; a subclass says what it looks like and what stands against its end."""

    kind: str
    path: str

    def __init__(self, flow: FlowPort) -> None:
        self.desk = Desk(flow)

    @abstractmethod
    async def views(self, *found: StoredObject) -> Views:
        """As the API shows them."""

    @abstractmethod
    async def used_by(self, change: Change, standing: StoredObject) -> Problem | None:
        """What stands against its end."""

    async def list(self, request: Request) -> Response:
        """GET: all of them, the newest first."""
        page = self.desk.page(request, self.desk.enter(request, *PAGING))
        found = await self.desk.store.page(self.kind, page.limit + 1, page.below)
        return list_response(page, await self.views(*found), [one.id for one in found])

    async def read(self, request: Request) -> Response:
        """GET: one of them."""
        self.desk.enter(request)
        found = await self.desk.store.find(self.kind, id_in(request, "id", PREFIXES[self.kind]))
        if found is None:
            raise not_found()
        [view] = await self.views(found)
        return object_response(view)

    async def remove(self, request: Request) -> Response:
        """DELETE: refused while something needs it."""
        key = self.desk.enter(request)
        await self.desk.no_body(request)
        async with self.desk.store.change(self.desk.author(request, key)) as change:
            standing = await self._standing(change, request)
            check_if_match(request, standing, is_required=False)
            problem = await self.used_by(change, standing)
            if problem is not None:
                raise ProblemError(problem)
            await change.remove(standing)
        await self.desk.done()
        return Response(status_code=204)

    async def changed(self, request: Request, key: ApiKey, decide: Decide) -> Response:
        """Change one under the lock; its new state as the answer."""
        async with self.desk.store.change(self.desk.author(request, key)) as change:
            changed = await decide(change, await self._standing(change, request))
        await self.desk.done()
        [view] = await self.views(changed)
        return object_response(view)

    async def refuse_taken(self, change: Change, name: str, taken: FieldError) -> None:
        """Raise the 409 when there is one of that name."""
        if await change.by_name(self.kind, name) is not None:
            raise ProblemError(Problem(taken.code, taken.detail, [taken]))

    async def put(self, change: Change, wanted: Wanted, verb: str | None = None) -> StoredObject:
        """Write what was checked."""
        return await change.put(Upsert(self.kind, wanted.name, wanted.spec, wanted.secrets, verb))

    def created(self, made: StoredObject) -> Response:
        """The 201."""
        response = private_response({"id": made.public_id}, 201)
        response.headers["location"] = f"{self.path}/{made.public_id}"
        response.headers["etag"] = f'"{made.version}"'
        return response

    async def _standing(self, change: Change, request: Request) -> StoredObject:
        standing = await change.by_id(self.kind, id_in(request, "id", PREFIXES[self.kind]))
        if standing is None:
            raise not_found()
        return standing


class Objects(Stored):
    """A kind that a file can say as well: it is checked as one entry of it."""

    section: Section  # of a file

    @abstractmethod
    def entry(self, earlier: StoredObject, standing: StoredObject) -> dict[str, Any]:
        """The object as it was, as a file would say it now."""

    async def rollback(self, request: Request) -> Response:
        """POST: as it was at a version, where that still fits what stands."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, VERSION)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            earlier = await earlier_of(change, standing, good["version"])
            entry = self.entry(earlier, standing)
            wanted = await self.checked_entry(change, entry, at="/version")
            return await self.put(change, wanted, "rolled_back")

        return await self.changed(request, key, decide)

    async def checked_entry(
        self,
        change: Change,
        entry: Mapping[str, Any],
        checked: Checked | None = None,
        *,
        at: str | None = None,
    ) -> Wanted:
        """The object that an entry wants; raises the 422 with `checked`'s faults before its own.

        Errors point at the field, or at whatever brings it back.
        """
        checked = checked or Checked()
        known: dict[tuple[str, str], dict[str, Any]] = {
            **await change.specs("channel", "route", "template", "canary")
        }
        tenant = entry.get("tenant")
        if isinstance(tenant, str) and await change.by_name("tenant", tenant) is not None:
            known["tenant", tenant] = {}
        wanted, errors = check_entry(self.section, entry, known)
        told = {error.pointer for error in checked.errors}
        for error in errors:
            # What is missing, or wrong by itself, was told already.
            if at is not None or not told or (error.pointer and error.pointer not in told):
                checked.add(error.pointer if at is None else at, error.code, error.detail)
        checked.stop()
        if wanted is None:
            raise RuntimeError("an entry without a fault is an object")
        return wanted


async def earlier_of(change: Change, standing: StoredObject, version: int) -> StoredObject:
    """An object as it was at a version; raises the 422 where it had none."""
    earlier = await change.at(standing, version)
    if earlier is None or version >= change.version:
        detail = "`version` is not one that this object had; the audit log names them."
        raise ProblemError(of_fields([FieldError("/version", "version.unknown", detail)]))
    return earlier
