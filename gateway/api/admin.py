"""Administration of tenants and keys, and the audit log (API section 5): FastAPI's part of it.

    scope admin ─▶ body, fields ─▶ change under the configuration's lock ═COMMIT, audit row═▶ answer
                                     │ If-Match, names, what stands
                                     └▶ a refusal undoes everything

What is read here comes from the store, not from the snapshot: who made a tenant on one worker
finds it on every other at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import (
    Desk,
    check_if_match,
    id_in,
    list_response,
    object_response,
    private_response,
    register,
)
from gateway.api.fields import Checked
from gateway.api.filters import AUDIT_FILTERS, PAGING
from gateway.api.keys import Keys, Owner
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.reply import not_found
from gateway.configfields import (
    BUCKET,
    BURST,
    CLASSES,
    LIMITS,
    OTP_CAPS,
    TENANT_OBJECT,
    Field,
    burst_refusal,
    whole,
)
from gateway.document import NO_CLIENT_CA
from gateway.owners import taken_detail, taken_numbers
from gateway.specs import changed_tenant, suspended, tenant_spec, tenant_view
from sms.config import ApiKey
from store.objects import PREFIXES, Change, StoredObject, Upsert

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

TENANTS = "/v1/tenants"
TENANT = TENANTS + "/{id:oid}"
ADMIN_KEYS = "/v1/admin-keys"
AUDIT = "/v1/audit-events"
VERSION: dict[str, Field] = {"version": Field(whole(1, (1 << 31) - 1), is_required=True, json=int)}
# A tenant is named by others: it keeps its name.
_CHANGEABLE = {name: field for name, field in TENANT_OBJECT.items() if name != "name"}
Decide = Callable[[Change, StoredObject], Any]


class Admin:
    """The administrative routes."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._desk = Desk(flow)
        self._keys = Keys(self._desk)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_admin.py`."""
        keys = self._keys
        register(app, TENANTS, "tenants", POST=self.create, GET=self.list)
        register(app, TENANT, "tenant", GET=self.read, PATCH=self.patch)
        register(app, TENANT + ":suspend", "suspendTenant", POST=self.suspend)
        register(app, TENANT + ":resume", "resumeTenant", POST=self.resume)
        register(app, TENANT + ":rollback", "rollbackTenant", POST=self.rollback)
        for path, owner in ((TENANT + "/api-keys", self._tenant_of), (ADMIN_KEYS, _platform)):
            one = path + "/{key_id:oid}"
            register(app, path, "keys", POST=keys.create(owner), GET=keys.list(owner))
            register(app, one, "key", GET=keys.read(owner), DELETE=keys.revoke(owner))
            register(app, one + ":rotate", "rotateKey", POST=keys.rotate(owner))
        register(app, AUDIT, "auditEvents", GET=self.audit)

    # -- tenants -------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """POST: a new tenant."""
        desk = self._desk
        key = desk.enter(request)
        good, checked = await desk.body(request, TENANT_OBJECT)
        limits = _limits(good, checked)
        _check_caps(good, checked)
        self._check_certificates(good)
        checked.stop()
        async with desk.store.change(desk.author(request, key)) as change:
            if await change.by_name("tenant", good["name"]) is not None:
                detail = "Another tenant has this name; choose another."
                errors = [FieldError("/name", "name.taken", detail)]
                raise ProblemError(Problem("name.taken", detail, errors))
            await _refuse_taken(change, good, None)
            made = await change.put(Upsert("tenant", good["name"], tenant_spec(good, limits), {}))
        await desk.done()
        response = private_response({"id": made.public_id}, 201)
        response.headers["location"] = f"{TENANTS}/{made.public_id}"
        response.headers["etag"] = f'"{made.version}"'
        return response

    async def list(self, request: Request) -> Response:
        """GET: all tenants, the newest first."""
        desk = self._desk
        page = desk.page(request, desk.enter(request, *PAGING))
        found = await desk.store.page("tenant", page.limit + 1, page.below)
        return list_response(page, [tenant_view(one) for one in found], [one.id for one in found])

    async def read(self, request: Request) -> Response:
        """GET: one tenant."""
        self._desk.enter(request)
        return object_response(tenant_view(await self._tenant(request)))

    async def patch(self, request: Request) -> Response:
        """PATCH: the named fields replaced."""
        key = self._desk.enter(request)
        good, checked = await self._desk.body(request, _CHANGEABLE, is_partial=True)
        limits = _limits(good, checked)
        _check_caps(good, checked)
        self._check_certificates(good)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=True)
            await _refuse_taken(change, good, standing.id)
            spec = changed_tenant(standing.spec, good, limits)
            return await change.put(Upsert("tenant", standing.name, spec, standing.secrets))

        return await self._change(request, key, decide)

    async def suspend(self, request: Request) -> Response:
        """POST: the tenant may not send until it is resumed."""
        return await self._switch(request, is_suspended=True)

    async def resume(self, request: Request) -> Response:
        """POST: the tenant may send again."""
        return await self._switch(request, is_suspended=False)

    async def _switch(self, request: Request, *, is_suspended: bool) -> Response:
        key = self._desk.enter(request)
        await self._desk.no_body(request)
        verb = "suspended" if is_suspended else "resumed"

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            spec = suspended(standing.spec, is_suspended=is_suspended)
            return await change.put(Upsert("tenant", standing.name, spec, {}, verb))

        return await self._change(request, key, decide)

    async def rollback(self, request: Request) -> Response:
        """POST: every field as it was at a version, the suspension excepted."""
        key = self._desk.enter(request)
        good, checked = await self._desk.body(request, VERSION)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            earlier = await change.at(standing, good["version"])
            if earlier is None or good["version"] >= change.version:
                detail = "`version` is not one that this object had; the audit log names them."
                raise ProblemError(of_fields([FieldError("/version", "version.unknown", detail)]))
            await _refuse_taken(change, earlier.spec, standing.id, at="/version")
            is_suspended = bool(standing.spec.get("is_suspended"))
            spec = suspended(earlier.spec, is_suspended=is_suspended)
            return await change.put(
                Upsert("tenant", standing.name, spec, earlier.secrets, "rolled_back")
            )

        return await self._change(request, key, decide)

    async def _change(self, request: Request, key: ApiKey, decide: Decide) -> Response:
        """Change one tenant under the lock; its new state as the answer."""
        desk = self._desk
        number = id_in(request, "id", PREFIXES["tenant"])
        async with desk.store.change(desk.author(request, key)) as change:
            standing = await change.by_id("tenant", number)
            if standing is None:
                raise not_found()
            changed = await decide(change, standing)
        await desk.done()
        return object_response(tenant_view(changed))

    def _check_certificates(self, good: Mapping[str, Any]) -> None:
        """Refuse what would shut the tenant out: a port that asks for none can be shown none."""
        if good.get("client_certificates") and not self._desk.has_client_ca:
            detail = f"`client_certificates` {NO_CLIENT_CA}."
            error = FieldError("/client_certificates", "field.value", detail)
            raise ProblemError(of_fields([error]))

    async def _tenant(self, request: Request) -> StoredObject:
        found = await self._desk.store.find("tenant", id_in(request, "id", PREFIXES["tenant"]))
        if found is None:
            raise not_found()
        return found

    async def _tenant_of(self, request: Request) -> Owner:
        tenant = await self._tenant(request)
        return Owner(tenant.name, f"{TENANTS}/{tenant.public_id}/api-keys")

    # -- the audit log -------------------------------------------------------------------------

    async def audit(self, request: Request) -> Response:
        """GET: what was changed, the newest first; `object` names one object by its id."""
        desk = self._desk
        page = desk.page(request, desk.enter(request, *AUDIT_FILTERS), AUDIT_FILTERS)
        rows = await desk.store.audit.page(page.limit + 1, page.below, page.given.get("object"))
        shown = [
            msgspec.Raw(row.body[:-1].encode() + b',"hash":"%b"}' % row.hash.hex().encode())
            for row in rows
        ]
        return list_response(page, shown, [row.id for row in rows])


async def _refuse_taken(
    change: Change, spec: Mapping[str, Any], own: int | None, *, at: str | None = None
) -> None:
    """Refuse inbound numbers that another tenant has, under the lock of all changes.

    Errors point at the number, or at whatever brings it back.
    """
    numbers = spec.get("inbound_numbers", ())
    others = await change.sharing_numbers(numbers, own)
    errors = [
        FieldError(
            at or f"/inbound_numbers/{index}",
            "field.value",
            f"`inbound_numbers`: {numbers[index]} {taken_detail(other)}.",
        )
        for index, other in taken_numbers(numbers, "", others).items()
    ]
    if errors:
        raise ProblemError(of_fields(errors))


async def _platform(_: Request) -> Owner:
    return Owner("", ADMIN_KEYS)


def _limits(good: dict[str, Any], checked: Checked) -> dict[str, Any]:
    """The limits given, each checked; those of `good` are taken out."""
    limits = checked.members(good.pop("limits", {}), LIMITS, "/limits", is_partial=True)
    if "classes" in limits:
        at = "/limits/classes"
        classes = checked.members(limits["classes"], CLASSES, at)
        limits["classes"] = {
            word: checked.members(inner, BUCKET, f"{at}/{word}") for word, inner in classes.items()
        }
    if "bursts" in limits:
        limits["bursts"] = [
            _burst(entry, f"/limits/bursts/{index}", checked)
            for index, entry in enumerate(limits["bursts"])
        ]
    return limits


def _check_caps(good: dict[str, Any], checked: Checked) -> None:
    if "otp_caps" in good:
        good["otp_caps"] = checked.members(good["otp_caps"], OTP_CAPS, "/otp_caps", is_partial=True)


def _burst(given: object, pointer: str, checked: Checked) -> dict[str, Any]:
    good = checked.members(given, BURST, pointer)
    wrong = burst_refusal(good)
    if wrong is not None:
        checked.add(f"{pointer}/until", "field.value", f"`until` {wrong}.")
    return good
