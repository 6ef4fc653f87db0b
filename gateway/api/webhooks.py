"""/v1/webhook-endpoints: where a tenant is told, and what became of it (API section 4).

    fields ─▶ under the configuration's lock: tenant, URL ═COMMIT, audit row═▶ answer
    :test ─▶ one request, now      :replay ─▶ kept, then sent as parked events are

A tenant's own keys see and change the tenant's endpoints, an admin key those of all; they are the
objects that a file's `webhook_endpoints` makes. An endpoint is told what a `read` key may read, so
a key that changes one needs both `send` and `read`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.admin import VERSION
from gateway.api.desk import (
    Desk,
    check_if_match,
    id_in,
    list_response,
    object_response,
    private_response,
    register,
)
from gateway.api.endpoint_secrets import given_key, rotated
from gateway.api.fields import Checked
from gateway.api.filters import PAGING
from gateway.api.frame import headers_of
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields, retry_after
from gateway.api.replaying import REPLAY, asked_of
from gateway.api.reply import caller, check_query, not_found
from gateway.configfields import ENDPOINT, ENDPOINT_CHANGE, MAX_OVERLAP_S, Field, text, whole
from gateway.specs import attempt_view, endpoint_name, endpoint_spec, endpoint_view
from gateway.webhook_desk import WebhookDesk
from gateway.weburl import url_refusal
from sms.config import ApiKey, WebhookEndpoint
from sms.ids import from_text, to_text
from store.objects import PREFIXES, Change, StoredObject, Upsert
from store.snapshot import endpoint_of

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

ENDPOINTS = "/v1/webhook-endpoints"
MAX_ENDPOINTS = 100  # of a tenant: each of its events is sent to every one that wants it
DEFAULT_OVERLAP_S = 86_400  # RELIABILITY section 10: while a secret is rotated both sign for 24 h
_BUSY_RETRY_S = 5
_ROTATE = "`secret` is not changed here; POST to …:rotate-secret, which keeps both for a while."
Views = list[dict[str, Any]]  # `list` is a route inside the class
_ONE = ENDPOINTS + "/{id:oid}"
_KIND = "webhook_endpoint"
_TENANT = Field(text(64), is_required=True, json=str)
_NEW_ANYBODYS: Mapping[str, Field] = {"tenant": _TENANT, **ENDPOINT}
_LIST_ANYBODYS: Mapping[str, Field] = {"tenant": Field(text(64), json=str), **PAGING}
ROTATION: Mapping[str, Field] = {"overlap_s": Field(whole(0, MAX_OVERLAP_S), json=int)}


class _Whose(NamedTuple):
    """Who asks, and about whose endpoints; `tenant` by name, None = all."""

    key: ApiKey
    tenant: str | None

    def may_see(self, stored: StoredObject | None) -> bool:
        return stored is not None and self.tenant in (None, stored.spec["tenant"])


class EndpointRoutes:
    """The routes; each says first whose endpoints it is about."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_webhooks.py`."""
        register(app, ENDPOINTS, "webhookEndpoints", POST=self.create, GET=self.list)
        one = {"GET": self.read, "PATCH": self.patch, "DELETE": self.remove}
        register(app, _ONE, "webhookEndpoint", **one)
        register(app, _ONE + ":rollback", "rollbackEndpoint", POST=self.rollback)
        register(app, _ONE + ":rotate-secret", "rotateSecret", POST=self.rotate)
        register(app, _ONE + ":test", "testEndpoint", POST=self.test)
        register(app, _ONE + ":replay", "replayEvents", POST=self.replay)
        register(app, _ONE + "/attempts", "listAttempts", GET=self.attempts)

    # -- configuration ---------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        """POST: a new endpoint; its secret is shown this once."""
        desk, whose = self._desk, self._enter(request, is_change=True)
        check_query(request)
        table = ENDPOINT if whose.tenant else _NEW_ANYBODYS
        good, checked = await desk.body(request, table)
        self._check_url(good, checked)
        secret, keys = given_key(good, checked)
        if whose.tenant:
            checked.stop()  # only what is well said is counted
        self._pay(whose)
        async with desk.store.change(desk.author(request, whose.key)) as change:
            tenant = whose.tenant or await _named(change, good, checked)
            checked.stop()
            await _check_room(change, tenant)
            name = endpoint_name(tenant, good["url"])
            await _refuse_taken(change, name)
            made = await change.put(Upsert(_KIND, name, endpoint_spec(good, tenant), keys))
        await desk.done()
        view = await self._view(whose, made)
        response = object_response({**view, "secret": secret}, 201)
        response.headers["location"] = f"{ENDPOINTS}/{made.public_id}"
        return response

    async def list(self, request: Request) -> Response:
        """GET: the endpoints, the newest first."""
        whose = self._enter(request)
        table = PAGING if whose.tenant else _LIST_ANYBODYS
        page = self._desk.page(request, whose.key, table)
        owner = whose.tenant or page.given.get("tenant")
        if owner is not None and not whose.tenant:
            owner = self._owner(owner)
        found = await self._desk.store.page(_KIND, page.limit + 1, page.below, owner)
        return list_response(page, await self._views(whose, *found), [one.id for one in found])

    async def read(self, request: Request) -> Response:
        """GET: one endpoint."""
        whose = self._enter(request)
        check_query(request)
        return object_response(await self._view(whose, await self._found(request, whose)))

    async def patch(self, request: Request) -> Response:
        """PATCH: the named fields replaced."""
        whose = self._enter(request, is_change=True, only_stops=True)
        check_query(request)
        good, checked = await self._desk.body(request, ENDPOINT_CHANGE, is_partial=True)
        checked.errors = [
            one._replace(detail=_ROTATE) if one.pointer == "/secret" else one
            for one in checked.errors
        ]
        if good != {"enabled": False}:
            self._enter(request, is_change=True)
        self._check_url(good, checked)
        checked.stop()
        async with self._change(request, whose) as (change, standing):
            check_if_match(request, standing, is_required=True)
            spec = _changed(standing, good)
            changed = await _put(change, standing, spec)
        return await self._after(whose, standing, changed)

    async def rollback(self, request: Request) -> Response:
        """POST: its fields as they were at a version; secret and being disabled stay."""
        whose = self._enter(request, is_change=True)
        check_query(request)
        good, checked = await self._desk.body(request, VERSION)
        checked.stop()
        async with self._change(request, whose) as (change, standing):
            check_if_match(request, standing, is_required=False)
            earlier = await change.at(standing, good["version"])
            if earlier is None or good["version"] >= change.version:
                detail = "`version` is not one that this object had; the audit log names them."
                raise ProblemError(of_fields([FieldError("/version", "version.unknown", detail)]))
            self._check_url(earlier.spec, checked, at="/version")
            checked.stop()
            tenant = standing.spec["tenant"]
            spec = endpoint_spec(earlier.spec, tenant, standing.spec.get("disabled"))
            changed = await _put(change, standing, spec, "rolled_back")
        return await self._after(whose, standing, changed)

    async def remove(self, request: Request) -> Response:
        """DELETE: nothing is sent to it any more; what waits is forgotten."""
        whose = self._enter(request, is_change=True, only_stops=True)
        check_query(request)
        await self._desk.no_body(request)
        async with self._change(request, whose) as (change, standing):
            check_if_match(request, standing, is_required=False)
            await change.remove(standing)
        await self._desk.done()
        return Response(status_code=204)

    async def rotate(self, request: Request) -> Response:
        """POST: another secret; the one before signs too until the overlap is over."""
        whose = self._enter(request, is_change=True)
        check_query(request)
        good: dict[str, Any] = {}
        if _has_body(request):
            good, checked = await self._desk.body(request, ROTATION)
            checked.stop()
        overlap_s = good.get("overlap_s", DEFAULT_OVERLAP_S)
        async with self._change(request, whose) as (change, standing):
            check_if_match(request, standing, is_required=False)
            secret, keys = rotated(standing.secrets, self._desk.now(), overlap_s)
            changed = await change.put(
                Upsert(_KIND, standing.name, standing.spec, keys, "secret_rotated")
            )
        await self._desk.done()
        view = await self._view(whose, changed)
        return object_response({**view, "secret": secret})

    # -- deliveries ------------------------------------------------------------------------

    async def test(self, request: Request) -> Response:
        """POST: one event of the type webhook.test, signed and sent like any other, once."""
        whose = self._enter(request, is_change=True)
        check_query(request)
        await self._desk.no_body(request)
        config = self._enabled(await self._found(request, whose))
        event_id = self._webhooks.next_id()
        if not self._webhooks.send_test(config, event_id):
            detail = "Some test events are under way to this endpoint and have no answer yet."
            raise ProblemError(retry_after("webhook_endpoint.busy", detail, _BUSY_RETRY_S))
        return private_response({"event_id": to_text("evt", event_id)}, 202)

    async def attempts(self, request: Request) -> Response:
        """GET: the requests that were made, the newest first; 30 days."""
        whose = self._enter(request)
        page = self._desk.page(request, whose.key)
        stored = await self._found(request, whose)
        reading = self._flow.reading.attempts
        found = await reading.page(stored.id, page.limit + 1, page.below, self._desk.now())
        return list_response(page, [attempt_view(one) for one in found], [one.id for one in found])

    async def replay(self, request: Request) -> Response:
        """POST: send one event, those of a time, or all dead letters again."""
        whose = self._enter(request, is_change=True)
        check_query(request)
        good, checked = await self._desk.body(request, REPLAY)
        asked = asked_of(good, checked, self._desk.now())
        stored = await self._found(request, whose)
        config = self._enabled(stored)
        if asked.event_id is None:
            span = asked.after, asked.until
            if not await self._webhooks.replay(config, *span, is_failed=asked.is_failed):
                detail = "A replay of this endpoint is not done yet; it has one at a time."
                raise ProblemError(Problem("webhook_endpoint.replaying", detail))
        elif not await self._webhooks.replay_one(config, asked.event_id):
            detail = "`event_id` is not that of an event of this tenant that webhooks tell of."
            raise ProblemError(of_fields([FieldError("/event_id", "field.value", detail)]))
        return private_response(asked.told, 202)

    # -- whose -----------------------------------------------------------------------------

    def _enter(
        self, request: Request, *, is_change: bool = False, only_stops: bool = False
    ) -> _Whose:
        key: ApiKey = request.state.key
        if not key.tenant:
            return _Whose(caller(request, self._flow, "admin"), None)
        caller(request, self._flow, "read")
        if is_change:
            caller(request, self._flow, "send", only_stops=only_stops)
        return _Whose(key, self._flow.snapshot.tenants[key.tenant].name)

    def _owner(self, named: str) -> str:
        """The name of the tenant that a list is asked of, by id or name; raises the 422."""
        number = from_text(PREFIXES["tenant"], named)
        for tenant in self._flow.snapshot.tenants.values():
            if tenant.id == number or tenant.name == named:
                return tenant.name
        detail = "`tenant` is neither a tenant's name nor its id."
        raise ProblemError(of_fields([FieldError("/tenant", "query.value", detail)]))

    async def _found(self, request: Request, whose: _Whose) -> StoredObject:
        found = await self._desk.store.find(_KIND, id_in(request, "id", PREFIXES[_KIND]))
        if found is None or not whose.may_see(found):
            raise not_found()
        return found

    @contextlib.asynccontextmanager
    async def _change(
        self, request: Request, whose: _Whose
    ) -> AsyncIterator[tuple[Change, StoredObject]]:
        """The endpoint under the configuration's lock; raises the 404."""
        author = self._desk.author(request, whose.key)
        number = id_in(request, "id", PREFIXES[_KIND])
        self._pay(whose)
        async with self._desk.store.change(author) as change:
            standing = await change.by_id(_KIND, number)
            if standing is None or not whose.may_see(standing):
                raise not_found()
            yield change, standing

    async def _after(
        self, whose: _Whose, standing: StoredObject, changed: StoredObject
    ) -> Response:
        """The changed endpoint; one with another address, or enabled again, begins anew."""
        is_other = standing.spec["url"] != changed.spec["url"]
        if is_other or "disabled" in standing.spec.keys() - changed.spec.keys():
            await self._webhooks.forget_health(changed.id)
        await self._desk.done()
        return object_response(await self._view(whose, changed))

    # -- checks ----------------------------------------------------------------------------

    @property
    def _webhooks(self) -> WebhookDesk:
        if self._flow.webhooks is None:
            detail = "This process sends no webhooks."
            raise ProblemError(retry_after("store.unavailable", detail, 2))
        return self._flow.webhooks

    def _pay(self, whose: _Whose) -> None:
        """Count a change by a tenant's key; raises the 429."""
        limit = self._webhooks.changes
        wait_s = limit.wait_s(whose.key.tenant, time.monotonic()) if whose.tenant else 0
        if wait_s:
            detail = f"A tenant changes its endpoints at most {limit.per_min} times a minute."
            raise ProblemError(retry_after("webhook_endpoint.too_fast", detail, wait_s))

    def _check_url(self, good: Mapping[str, Any], checked: Checked, at: str = "/url") -> None:
        wrong = url_refusal(good["url"], self._webhooks.allow) if "url" in good else None
        if wrong is not None:
            checked.add(at, "field.value", f"`url` {wrong}.")

    def _running(self, stored: StoredObject) -> WebhookEndpoint:
        """As it is called; also one that this process has not heard of yet."""
        for tenant in self._flow.snapshot.tenants.values():
            if tenant.name == stored.spec["tenant"]:
                return endpoint_of(stored, tenant.id)
        raise not_found()

    def _enabled(self, stored: StoredObject) -> WebhookEndpoint:
        """The same, to be sent to; raises the 409."""
        config = self._running(stored)
        if config.is_disabled:
            detail = "Nothing is sent to this endpoint while it is disabled; enable it first."
            raise ProblemError(Problem("webhook_endpoint.disabled", detail))
        return config

    # -- views -----------------------------------------------------------------------------

    async def _view(self, whose: _Whose, stored: StoredObject) -> dict[str, Any]:
        [view] = await self._views(whose, stored)
        return view

    async def _views(self, whose: _Whose, *found: StoredObject) -> Views:
        owners = {one.spec["tenant"] for one in found}
        numbers = await self._desk.store.ids("tenant", owners) if owners else {}
        health = await self._flow.reading.attempts.standing([one.id for one in found])
        now = self._desk.now()
        return [
            endpoint_view(
                one,
                to_text(PREFIXES["tenant"], numbers[one.spec["tenant"]]),
                health.get(one.id),
                now,
                is_own=whose.tenant is not None,
            )
            for one in found
        ]


async def _named(change: Change, good: Mapping[str, Any], checked: Checked) -> str:
    """The name of the tenant that an admin key makes it for, given by id or name."""
    given = good.get("tenant")
    if given is None:
        return ""  # told already
    number = from_text(PREFIXES["tenant"], given)
    tenant = await change.by_name("tenant", given)
    if tenant is None and number is not None:
        tenant = await change.by_id("tenant", number)
    if tenant is None:
        detail = "`tenant` is neither a tenant's name nor its id; correct it."
        checked.add("/tenant", "field.value", detail)
        return ""
    return tenant.name


def _changed(standing: StoredObject, good: Mapping[str, Any]) -> dict[str, Any]:
    spec = standing.spec
    return endpoint_spec({**spec, **good}, spec["tenant"], spec.get("disabled"))


async def _put(
    change: Change, standing: StoredObject, spec: dict[str, Any], verb: str | None = None
) -> StoredObject:
    """Write it; its name goes with its URL."""
    name = endpoint_name(spec["tenant"], spec["url"])
    if name != standing.name:
        await _refuse_taken(change, name)
    return await change.put(Upsert(_KIND, name, spec, standing.secrets, verb, was=standing.name))


async def _check_room(change: Change, tenant: str) -> None:
    if await change.count(_KIND, tenant) >= MAX_ENDPOINTS:
        detail = f"A tenant has at most {MAX_ENDPOINTS} webhook endpoints; delete one first."
        raise ProblemError(of_fields([FieldError("", "webhook_endpoint.too_many", detail)]))


async def _refuse_taken(change: Change, name: str) -> None:
    standing = await change.by_name(_KIND, name)
    if standing is not None:
        detail = f"There is an endpoint with this URL already, {standing.public_id}; change that."
        raise ProblemError(
            Problem("name.taken", detail, [FieldError("/url", "name.taken", detail)])
        )


def _has_body(request: Request) -> bool:
    headers = headers_of(request.scope["headers"])
    return b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
