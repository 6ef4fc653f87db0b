"""/v1/channels: accounts at carriers, and whether they take messages (API section 5).

    fields ─▶ under the configuration's lock: an entry, checked as `smsgw apply` checks it, routes
              and templates that name the channel too ═COMMIT, audit row═▶ answer
    :pause, :resume, :drain ─▶ `admin_state` ─▶ every process within 5 s

Secrets go in and never come out; a PATCH that does not name them keeps them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import check_if_match, register
from gateway.api.explain import child
from gateway.api.fields import Checked
from gateway.api.objects import Objects, Specs, Views
from gateway.api.problems import NAME_LIKE, FieldError, Problem
from gateway.canaryfit import LIVE_REMEDY, live_ones
from gateway.configfields import CHANNEL, Field
from gateway.document import CHANNEL_SECRETS
from gateway.protocols import PROTOCOLS
from gateway.specs import channel_entry, channel_view, in_state
from gateway.views import rfc3339
from sms.config import AdminState
from sms.model import Carrier
from store.channel_news import Left
from store.objects import Change, StoredObject, Upsert

CHANNELS = "/v1/channels"
_ONE = CHANNELS + "/{id:oid}"
# A channel is named by others: it keeps its name. Null puts a field back to its default.
_CHANGEABLE: Mapping[str, Field] = {
    name: replace(field, is_nullable=not field.is_required)
    for name, field in CHANNEL.items()
    if name != "name"
}
_VERBS = {
    AdminState.PAUSED: "paused",
    AdminState.ACTIVE: "resumed",
    AdminState.DRAINING: "drained",
}


class ChannelRoutes(Objects):
    """The routes; for admin keys."""

    kind, path, section = "channel", CHANNELS, "channels"

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_channels.py`."""
        register(app, CHANNELS, "channels", POST=self.create, GET=self.list)
        register(app, _ONE, "channel", GET=self.read, PATCH=self.patch, DELETE=self.remove)
        register(app, _ONE + ":pause", "pauseChannel", POST=self.pause)
        register(app, _ONE + ":resume", "resumeChannel", POST=self.resume)
        register(app, _ONE + ":drain", "drainChannel", POST=self.drain)
        register(app, _ONE + ":rollback", "rollbackChannel", POST=self.rollback)

    async def create(self, request: Request) -> Response:
        """POST: a new channel."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, CHANNEL, is_open=True)
        _check_own(good, good.get("protocol"), checked)
        detail = "Another channel has this name; choose another."
        taken = FieldError("/name", "name.taken", detail)
        async with self.desk.store.change(self.desk.author(request, key)) as change:
            await self.refuse_taken(change, good.get("name", ""), taken)
            wanted = await self.checked_entry(change, good, checked)
            made = await self.put(change, wanted)
        await self.desk.done()
        return self.created(made)

    async def patch(self, request: Request) -> Response:
        """PATCH: the named fields replaced; null = its default, of a secret: gone."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, _CHANGEABLE, is_partial=True, is_open=True)
        if "name" in good:
            del good["name"]
            detail = "`name` never changes: routes, metrics and files name the channel."
            checked.add("/name", "field.unknown", detail)

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=True)
            merged = {**channel_entry(standing), **good}
            entry = {name: value for name, value in merged.items() if value is not None}
            _check_own(good, entry["protocol"], checked)
            wanted = await self.checked_entry(change, entry, checked)
            return await self.put(change, wanted)

        return await self.changed(request, key, decide)

    async def pause(self, request: Request) -> Response:
        """POST: nothing new is submitted over it; its sessions stay."""
        return await self._switch(request, AdminState.PAUSED)

    async def resume(self, request: Request) -> Response:
        """POST: it takes messages again."""
        return await self._switch(request, AdminState.ACTIVE)

    async def drain(self, request: Request) -> Response:
        """POST: paused, and its sessions log out once nothing has been open for a while."""
        return await self._switch(request, AdminState.DRAINING)

    async def _switch(self, request: Request, state: AdminState) -> Response:
        key = self.desk.enter(request)
        await self.desk.no_body(request)

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            spec = in_state(standing.spec, state)
            return await change.put(
                Upsert(self.kind, standing.name, spec, standing.secrets, _VERBS[state])
            )

        return await self.changed(request, key, decide)

    async def views(self, *found: StoredObject) -> Views:
        """As the API shows them; the health, which is no part of the ETag, beside it."""
        left = [row for row in await self.desk.store.news.left() if not row.is_stale]
        return [{**channel_view(one), "health": health_view(one.id, left)} for one in found]

    def entry(self, earlier: StoredObject, standing: StoredObject) -> dict[str, Any]:
        """Every field as it was, its secrets too; paused it stays."""
        state = standing.spec.get("admin_state", AdminState.ACTIVE)
        return {**channel_entry(earlier), "admin_state": str(state)}

    async def used_by(self, change: Change, standing: StoredObject) -> Problem | None:
        """A route, a template or a live canary that names it."""
        known: Specs = await change.specs("route", "template", "canary")
        canaries = {name: spec for (kind, name), spec in known.items() if kind == "canary"}
        for name, spec in live_ones(canaries).items():
            if standing.name in spec["channels"]:
                detail = f"Canary {name} is live and names this channel: {LIVE_REMEDY}."
                return Problem("channel.in_use", detail)
        for (kind, name), spec in known.items():
            if kind == "canary":
                continue
            named = spec["channels"] if kind == "route" else spec.get("twins", {})
            if standing.name in named:
                what = f"Route {name}" if kind == "route" else f"A twin of template {name}"
                detail = f"{what} names this channel; take it out there first."
                return Problem("channel.in_use", detail)
        return None


def health_view(channel: int, left: Collection[Left]) -> dict[str, Any]:
    """What living processes have left of a channel, each way once, the whole channel first."""
    by_way: dict[Carrier | None, list[Left]] = {}
    for row in left:
        of, carrier = row.way
        if of == channel:
            by_way.setdefault(carrier, []).append(row)
    ways = [
        {
            "carrier": carrier,
            "cause": (first := min(rows, key=lambda row: row.since)).cause,
            "since": rfc3339(first.since),
            "processes": len(rows),
        }
        for carrier, rows in sorted(by_way.items(), key=lambda item: item[0] or "")
    ]
    return {"state": "degraded" if ways else "ok", "left": ways}


def _check_own(given: dict[str, Any], protocol: object, checked: Checked) -> None:
    """Take out what can be no setting of the protocol's, and say so."""
    is_known = isinstance(protocol, str) and protocol in PROTOCOLS
    for name in [name for name in given if name not in CHANNEL]:
        shown = f"`{name}`" if NAME_LIKE.fullmatch(name) else "A field here"
        if name.endswith("_file") and name.removesuffix("_file") in CHANNEL_SECRETS:
            what = f"is for files; give `{name.removesuffix('_file')}` itself"
        elif not is_known:
            what = "is not a field of every channel, and without a right `protocol` not of one"
        else:
            continue
        del given[name]
        checked.add(child("", name), "field.unknown", f"{shown} {what}.")
