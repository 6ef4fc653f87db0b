"""The routes of API keys: those of a tenant and those of the platform, the same but for the owner.

A key is shown once. What is stored is its hash; a signing secret is stored sealed, because it
must be known to check a signature. A key that is rotated out keeps its id and gets an end; its
successor has a new id. Ids never come back: the database refuses one that was ever given.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.responses import Response

from gateway.api.auth import new_key, new_key_id
from gateway.api.desk import (
    Desk,
    Handler,
    check_if_match,
    id_in,
    list_response,
    object_response,
    private_response,
)
from gateway.api.filters import PAGING
from gateway.api.problems import FieldError, Problem, ProblemError
from gateway.api.reply import not_found
from gateway.api.signing import new_signing_secret
from gateway.configfields import (
    ADMIN_KEY_OBJECT,
    KEY_OBJECT,
    MAX_OVERLAP_S,
    TENANT_SCOPES,
    Field,
    whole,
)
from gateway.specs import key_view
from store.objects import PREFIXES, Change, StoredObject, Upsert

OVERLAP: dict[str, Field] = {
    "overlap_s": Field(whole(0, MAX_OVERLAP_S), is_required=True, json=int)
}


class Owner(NamedTuple):
    """Whose keys: a tenant's by its name, the platform's with "". `path` is where they are."""

    name: str
    path: str


OwnerOf = Callable[[Request], Awaitable[Owner]]


class NewKey(NamedTuple):
    """A key just made: what is stored, and what is shown once."""

    key_id: int
    secrets: dict[str, Any]
    shown: dict[str, str]


def make_key(pepper: bytes, *, is_signing: bool) -> NewKey:
    """A key with a new id and, when it signs, a signing secret."""
    key_id = new_key_id()
    text, digest = new_key(pepper, key_id)
    secrets: dict[str, Any] = {"secret_hash": digest.hex()}
    shown = {"key": text}
    if is_signing:
        shown["signing_secret"] = secrets["signing_secret"] = new_signing_secret()
    return NewKey(key_id, secrets, shown)


class Keys:
    """Makes the handlers, one set for each kind of owner."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def create(self, owner_of: OwnerOf) -> Handler:
        """POST: a new key, shown once."""
        desk = self._desk

        async def handle(request: Request) -> Response:
            key = desk.enter(request)
            owner = await owner_of(request)
            table = KEY_OBJECT if owner.name else ADMIN_KEY_OBJECT
            good, checked = await desk.body(request, table)
            checked.stop()
            scopes = good.get("scopes", TENANT_SCOPES if owner.name else ["admin"])
            made = make_key(desk.pepper, is_signing=good.get("signing", False))
            spec = {
                "tenant": owner.name or None,
                "name": good["name"],
                "scopes": sorted(scopes),
                "key_id": made.key_id,
            }
            name = f"{owner.name}/{good['name']}"
            async with desk.store.change(desk.author(request, key)) as change:
                await _check_owner(change, owner)
                if await change.by_name("api_key", name) is not None:
                    detail = "Another key has this name; revoke it, rotate it, or choose another."
                    errors = [FieldError("/name", "name.taken", detail)]
                    raise ProblemError(Problem("name.taken", detail, errors))
                stored = await change.put(Upsert("api_key", name, spec, made.secrets))
            await desk.done()
            return _shown_once(stored, made, owner)

        return handle

    def list(self, owner_of: OwnerOf) -> Handler:
        """GET: the owner's keys, the newest first."""
        desk = self._desk

        async def handle(request: Request) -> Response:
            page = desk.page(request, desk.enter(request, *PAGING))
            owner = await owner_of(request)
            found = await desk.store.page("api_key", page.limit + 1, page.below, owner.name)
            views = [key_view(one, desk.now()) for one in found]
            return list_response(page, views, [one.id for one in found])

        return handle

    def read(self, owner_of: OwnerOf) -> Handler:
        """GET: one key."""
        desk = self._desk

        async def handle(request: Request) -> Response:
            desk.enter(request)
            owner = await owner_of(request)
            found = await desk.store.find("api_key", id_in(request, "key_id", PREFIXES["api_key"]))
            return object_response(key_view(_of(owner, found), desk.now()))

        return handle

    def revoke(self, owner_of: OwnerOf) -> Handler:
        """DELETE: the key is out of force, for good."""
        desk = self._desk

        async def handle(request: Request) -> Response:
            key = desk.enter(request)
            await desk.no_body(request)
            owner = await owner_of(request)
            number = id_in(request, "key_id", PREFIXES["api_key"])
            async with desk.store.change(desk.author(request, key)) as change:
                standing = _of(owner, await change.key(number))
                check_if_match(request, standing, is_required=False)
                if number == key.id:
                    detail = "A key does not revoke itself; use another admin key."
                    raise ProblemError(Problem("key.own", detail))
                await change.remove(standing, "revoked")
            await desk.done()
            return Response(status_code=204)

        return handle

    def rotate(self, owner_of: OwnerOf) -> Handler:
        """POST: a successor, shown once; the key itself ends after the overlap."""
        desk = self._desk

        async def handle(request: Request) -> Response:
            key = desk.enter(request)
            good, checked = await desk.body(request, OVERLAP)
            checked.stop()
            owner = await owner_of(request)
            number = id_in(request, "key_id", PREFIXES["api_key"])
            async with desk.store.change(desk.author(request, key)) as change:
                standing = _of(owner, await change.key(number))
                check_if_match(request, standing, is_required=False)
                if "valid_until" in standing.spec:
                    detail = "The key was rotated out already; rotate its successor."
                    raise ProblemError(Problem("key.rotated_out", detail))
                is_signing = "signing_secret" in standing.secrets
                made = make_key(desk.pepper, is_signing=is_signing)
                until = round(desk.now() + good["overlap_s"], 3)
                await _retire(change, standing, until)
                spec = {**standing.spec, "key_id": made.key_id}
                stored = await change.put(Upsert("api_key", standing.name, spec, made.secrets))
            await desk.done()
            return _shown_once(stored, made, owner)

        return handle


async def _check_owner(change: Change, owner: Owner) -> None:
    """The tenant still stands, under the lock."""
    if owner.name and await change.by_name("tenant", owner.name) is None:
        raise not_found()


async def _retire(change: Change, standing: StoredObject, until: float) -> None:
    """Give a key its end. The name is its successor's now; each process ends it by its clock."""
    name = f"{standing.name}/{standing.public_id}"
    spec = {**standing.spec, "valid_until": until}
    await change.put(
        Upsert("api_key", name, spec, standing.secrets, "rotated_out", was=standing.name)
    )


def _of(owner: Owner, found: StoredObject | None) -> StoredObject:
    """The key, when it is this owner's; else the 404 of one that is not there."""
    if found is None or (found.spec.get("tenant") or "") != owner.name:
        raise not_found()
    return found


def _shown_once(stored: StoredObject, made: NewKey, owner: Owner) -> Response:
    response = private_response({"id": stored.public_id, **made.shown}, 201)
    response.headers["location"] = f"{owner.path}/{stored.public_id}"
    response.headers["etag"] = f'"{stored.version}"'
    return response
