"""/v1/routes: whose messages go over which channels, in which order (API section 5).

    fields ─▶ under the configuration's lock: tenant and channels by name or id, the route checked
              as `smsgw apply` checks it ═COMMIT, audit row═▶ answer

Whose messages a route takes (tenant, class, carrier, country) it keeps: that is its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import check_if_match, register
from gateway.api.fields import Checked
from gateway.api.objects import Objects, Specs, Views
from gateway.api.problems import FieldError, Problem
from gateway.canaryfit import LIVE_REMEDY, live_ones
from gateway.configfields import MAX_BACKUPS, ROUTE, Field, list_of, text
from gateway.specs import route_view
from gateway.templatefit import lacks
from sms.ids import from_text, to_text
from store.objects import PREFIXES, Change, StoredObject
from store.snapshot import ANY

ROUTES = "/v1/routes"
_ONE = ROUTES + "/{id:oid}"
_WORD = text(64)
_CHANNELS = Field(list_of(_WORD, least=1, most=1 + MAX_BACKUPS), is_required=True, json=list)
_NEW: Mapping[str, Field] = {**ROUTE, "channels": _CHANNELS}
_CHANGEABLE: Mapping[str, Field] = {"channels": _CHANNELS, "weights": ROUTE["weights"]}


class RouteRoutes(Objects):
    """The routes; for admin keys."""

    kind, path, section = "route", ROUTES, "routes"

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_channels.py`."""
        register(app, ROUTES, "routes", POST=self.create, GET=self.list)
        register(app, _ONE, "route", GET=self.read, PATCH=self.patch, DELETE=self.remove)
        register(app, _ONE + ":rollback", "rollbackRoute", POST=self.rollback)

    async def create(self, request: Request) -> Response:
        """POST: a new route."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, _NEW)
        detail = "Another route takes the same tenant, class, carrier and country; change that one."
        taken = FieldError("", "name.taken", detail)
        async with self.desk.store.change(self.desk.author(request, key)) as change:
            await _name_tenant(change, good, checked)
            await name_channels(change, good, checked)
            checked.stop()
            wanted = await self.checked_entry(change, _said(good))
            await self.refuse_taken(change, wanted.name, taken)
            made = await self.put(change, wanted)
        await self.desk.done()
        return self.created(made)

    async def patch(self, request: Request) -> Response:
        """PATCH: other channels, another order, other weights or none."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, _CHANGEABLE, is_partial=True)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=True)
            await name_channels(change, good, checked)
            checked.stop()
            wanted = await self.checked_entry(change, _said({**_entry(standing), **good}))
            return await self.put(change, wanted)

        return await self.changed(request, key, decide)

    async def views(self, *found: StoredObject) -> Views:
        """As the API shows them, with ids beside the names."""
        store = self.desk.store
        owners = {one.spec["tenant"] for one in found} - {ANY}
        named = {name for one in found for name in one.spec["channels"]}
        tenants = public_ids("tenant", await store.ids("tenant", owners) if owners else {})
        channels = public_ids("channel", await store.ids("channel", named) if named else {})
        return [route_view(one, tenants, channels) for one in found]

    def entry(self, earlier: StoredObject, standing: StoredObject) -> dict[str, Any]:
        """The channels and weights as they were."""
        return _entry(earlier)

    async def used_by(self, change: Change, standing: StoredObject) -> Problem | None:
        """A canary on it; a template that would lack a twin in the route that is next then."""
        known: Specs = await change.specs("channel", "route", "template", "canary")
        channels, routes, templates, canaries = (
            {name: spec for (of, name), spec in known.items() if of == kind}
            for kind in ("channel", "route", "template", "canary")
        )
        for name, spec in live_ones(canaries).items():
            if spec["route"] == standing.name:
                return Problem("route.in_use", f"Canary {name} is live on it: {LIVE_REMEDY}.")
        del routes[standing.name]
        for lack in lacks(channels, routes, templates):
            return Problem("route.in_use", f"Without this route, {lack.detail}.")
        return None


def _entry(stored: StoredObject) -> dict[str, Any]:
    return {**stored.spec, "country": stored.spec["country"] or ANY}


def _said(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a file would say: null is nothing there."""
    return {name: value for name, value in entry.items() if value is not None}


async def _name_tenant(change: Change, good: dict[str, Any], checked: Checked) -> None:
    """Put the tenant's name in place of its id."""
    given = good.get("tenant", ANY)
    if given == ANY:
        return
    tenant = await named_object(change, "tenant", given)
    if tenant is None:
        detail = '`tenant` is neither a tenant\'s name nor its id; correct it, or give "*" for all.'
        checked.add("/tenant", "field.value", detail)
    else:
        good["tenant"] = tenant.name


async def name_channels(change: Change, good: dict[str, Any], checked: Checked) -> None:
    """Put the channels' names in place of their ids."""
    named: list[str] = []
    for index, given in enumerate(good.get("channels", ())):
        found = await named_object(change, "channel", given)
        if found is None:
            detail = "`channels` has one that is neither a channel's name nor its id; correct it."
            checked.add(f"/channels/{index}", "field.value", detail)
        elif found.name in named:
            checked.add(f"/channels/{index}", "field.value", "`channels` names one twice.")
        else:
            named.append(found.name)
    if "channels" in good:
        good["channels"] = named


async def named_object(change: Change, kind: str, given: str) -> StoredObject | None:
    """The object in force of that name, else of that id."""
    found = await change.by_name(kind, given)
    number = from_text(PREFIXES[kind], given)
    if found is None and number is not None:
        found = await change.by_id(kind, number)
    return found


def public_ids(kind: str, numbers: Mapping[str, int]) -> dict[str, str]:
    """As the API shows them, by name."""
    return {name: to_text(PREFIXES[kind], number) for name, number in numbers.items()}
