"""/v1/canaries: another channel for a part of a route's numbers, first (API section 5).

    fields ─▶ under the configuration's lock: route and channels by name or id, checked with the
              route's own as those of a route ═COMMIT, audit row═▶ its first share, in force
              within 5 s, then gates (`gateway/canary_judge.py`)
    :pause, :resume, :abort, :promote ─▶ a new version of it; :promote of its route too

A canary is a procedure: a file does not say one. While it lives its route stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.admin import VERSION
from gateway.api.desk import check_if_match, register
from gateway.api.fields import Checked
from gateway.api.objects import Stored, Views, earlier_of
from gateway.api.problems import FieldError, Problem, ProblemError
from gateway.api.routes import name_channels, named_object, public_ids
from gateway.canaryfit import (
    LIVE_REMEDY,
    Specs,
    canary_lacks,
    canary_misfits,
    lack_detail,
    live_ones,
    measured,
)
from gateway.canaryspec import (
    CANARY,
    CANARY_CHANGE,
    GATE,
    STEPS,
    Spec,
    aborted,
    at_share,
    in_front,
    is_live,
    new_canary,
    paused,
    promoted,
    promoted_route,
    resumed,
)
from gateway.specs import canary_view
from sms.config import AdminState, CanaryState
from store.objects import Change, StoredObject, Upsert

CANARIES = "/v1/canaries"
_ONE = CANARIES + "/{id:oid}"


class CanaryRoutes(Stored):
    """The routes; for admin keys."""

    kind, path = "canary", CANARIES

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_canaries.py`."""
        register(app, CANARIES, "canaries", POST=self.create, GET=self.list)
        register(app, _ONE, "canary", GET=self.read, PATCH=self.patch, DELETE=self.remove)
        register(app, _ONE + ":pause", "pauseCanary", POST=self.pause)
        register(app, _ONE + ":resume", "resumeCanary", POST=self.resume)
        register(app, _ONE + ":abort", "abortCanary", POST=self.abort)
        register(app, _ONE + ":promote", "promoteCanary", POST=self.promote)
        register(app, _ONE + ":rollback", "rollbackCanary", POST=self.rollback)

    async def create(self, request: Request) -> Response:
        """POST: a new canary, at its first step at once."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, CANARY)
        _check_gates(good, checked)
        _check_channel(good, checked)
        detail = "Another canary has this name; choose another, or delete that one."
        taken = FieldError("/name", "name.taken", detail)
        async with self.desk.store.change(self.desk.author(request, key)) as change:
            route = await _route(change, good, checked)
            at = await _name_all(change, good, route, checked)
            checked.stop()
            if route is None:
                raise RuntimeError("a canary without a fault has a route")
            await self.refuse_taken(change, good["name"], taken)
            spec = new_canary(
                route.name,
                good["channels"],
                route.spec["channels"][0],
                await self._now(change),
                steps=good.get("steps", STEPS),
                gates=good.get("gates"),
            )
            await _check_fit(change, good["name"], spec, at)
            made = await change.put(Upsert(self.kind, good["name"], spec, {}))
        await self.desk.done()
        return self.created(made)

    async def patch(self, request: Request) -> Response:
        """PATCH: other steps from here on, other limits."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, CANARY_CHANGE, is_partial=True)
        _check_gates(good, checked)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=True)
            _refuse_over(standing)
            share = standing.spec["share"]
            if share not in good.get("steps", [share]):
                detail = f"`steps` must hold the share that it has now, {share}; add it."
                checked.add("/steps", "field.value", detail)
                checked.stop()
            return await self._put(change, standing, {**standing.spec, **good}, "updated")

        return await self.changed(request, key, decide)

    async def pause(self, request: Request) -> Response:
        """POST: no gate takes it further, or back; it keeps its share."""
        return await self._step(request, "paused", CanaryState.PAUSED, lambda spec, _: paused(spec))

    async def resume(self, request: Request) -> Response:
        """POST: its step begins anew."""
        return await self._step(request, "resumed", CanaryState.RUNNING, resumed)

    async def abort(self, request: Request) -> Response:
        """POST: all numbers are the route's again."""
        return await self._step(request, "aborted", CanaryState.ABORTED, aborted)

    async def promote(self, request: Request) -> Response:
        """POST: its channels are the route's, whatever the gates say."""
        return await self._step(request, "promoted", CanaryState.PROMOTED, promoted)

    async def rollback(self, request: Request) -> Response:
        """POST: share, steps and limits as they were at a version of it; for a live one."""
        key = self.desk.enter(request)
        good, checked = await self.desk.body(request, VERSION)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            _refuse_over(standing)
            earlier = await earlier_of(change, standing, good["version"])
            # Paused it stays; the step begins now: what happened since is not of it.
            spec = {**earlier.spec, "state": standing.spec["state"]}
            share = earlier.spec["share"]
            spec = at_share(spec, share, await self._now(change))
            return await self._put(change, standing, spec, "rolled_back")

        return await self.changed(request, key, decide)

    async def views(self, *found: StoredObject) -> Views:
        """As the API shows them, with ids beside the names, and the figures of the last gate."""
        store = self.desk.store
        named = {name for one in found for name in (*one.spec["channels"], one.spec["baseline"])}
        routes = {one.spec["route"] for one in found}
        ids = public_ids("channel", await store.ids("channel", named) if named else {})
        route_ids = public_ids("route", await store.ids("route", routes) if routes else {})
        gates = await store.canaries.gates([one.id for one in found]) if found else {}
        told = {number: kept.gate for number, kept in gates.items()}
        return [canary_view(one, route_ids, ids, told.get(one.id, {})) for one in found]

    async def used_by(self, change: Change, standing: StoredObject) -> Problem | None:
        """Those who are on it."""
        if not is_live(standing.spec):
            return None
        return Problem("canary.live", "Numbers are on this canary; abort or promote it first.")

    async def _step(
        self,
        request: Request,
        verb: str,
        state: CanaryState,
        made: Callable[[Mapping[str, Any], float], Spec],
    ) -> Response:
        key = self.desk.enter(request)
        await self.desk.no_body(request)

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            if standing.spec["state"] == state:  # whose answer was lost asks again
                return standing
            _refuse_over(standing)
            if state is CanaryState.PROMOTED:
                await _promote_route(change, standing.spec)
            spec = made(standing.spec, await self._now(change))
            return await self._put(change, standing, spec, verb)

        return await self.changed(request, key, decide)

    async def _now(self, change: Change) -> float:
        """The clock that the judge goes by, whatever this host's says."""
        return await self.desk.store.canaries.judging(change).now()

    async def _put(
        self, change: Change, standing: StoredObject, spec: Spec, verb: str
    ) -> StoredObject:
        return await change.put(Upsert(self.kind, standing.name, spec, {}, verb))


# -- what is asked for ---------------------------------------------------------------------------


def _check_gates(good: dict[str, Any], checked: Checked) -> None:
    if "gates" in good:
        good["gates"] = checked.members(good["gates"], GATE, "/gates", is_partial=True)


def _check_channel(good: Mapping[str, Any], checked: Checked) -> None:
    told = {error.pointer.split("/")[1] for error in checked.errors if error.pointer}
    if told & {"channel", "channels"}:
        return
    if "channel" not in good and "channels" not in good:
        detail = "`channel` is missing: name the one to try, or give a whole list in `channels`."
        checked.add("/channel", "field.missing", detail)
    elif "channel" in good and "channels" in good:
        checked.add("/channels", "field.value", "`channels` and `channel` are one too many.")


async def _route(change: Change, good: Mapping[str, Any], checked: Checked) -> StoredObject | None:
    if "route" not in good:
        return None
    route = await named_object(change, "route", good["route"])
    if route is None:
        detail = (
            '`route` is neither a route\'s name ("*/otp/*/*": tenant, class, carrier, country) nor '
            "its id; correct it."
        )
        checked.add("/route", "field.value", detail)
    elif "weights" in route.spec:
        detail = (
            "`route` has weights, so there is no one primary to compare with; take them away "
            "(`weights: null`), or let the weights share its numbers out."
        )
        checked.add("/route", "field.value", detail)
    return route


async def _name_all(
    change: Change, good: dict[str, Any], route: StoredObject | None, checked: Checked
) -> Callable[[int], str]:
    """Make `channels` the whole list by names; says where the one at an index was given."""
    if "channel" in good:
        one = {"channels": [good["channel"]]}
        alone = Checked()
        await name_channels(change, one, alone)
        if alone.errors:
            detail = "`channel` is neither a channel's name nor its id; correct it."
            checked.add("/channel", "field.value", detail)
        own = () if route is None else route.spec["channels"]
        good["channels"] = [] if alone.errors else in_front(one["channels"][0], own)
        return lambda _: "/channel"
    await name_channels(change, good, checked)
    return lambda index: f"/channels/{index}"


async def _check_fit(change: Change, name: str, spec: Spec, at: Callable[[int], str]) -> None:
    """Raise what is against a new canary, beside what stands; `at`: where a channel was given."""
    known = await change.specs("channel", "route", "template", "canary")
    channels, routes, templates, canaries = (
        {one: found for (of, one), found in known.items() if of == kind}
        for kind in ("channel", "route", "template", "canary")
    )
    checked = Checked()
    candidate, baseline = measured(spec)
    if candidate == baseline:
        detail = "It is the route's first channel already: nothing is to be tried. Name another."
        checked.add(at(0), "field.value", detail)
        checked.stop()
    _refuse_second(spec, live_ones(canaries))
    if channels[candidate].get("admin_state", AdminState.ACTIVE) != AdminState.ACTIVE:
        detail = f"{candidate} is paused, so nothing would go over it; resume it first."
        checked.add(at(0), "channel.paused", detail)
    alone = {name: spec}
    for wrong in canary_misfits(channels, routes, alone):
        checked.add(_place(spec, wrong.channels, at), "route.misfit", f"{wrong.detail}.")
    for lack in canary_lacks(channels, routes, alone, templates):
        where = _place(spec, (lack.channel,), at)
        checked.add(where, "template.twin_missing", f"{lack_detail(lack)}.")
    checked.stop()


def _place(spec: Spec, named: tuple[str, ...], at: Callable[[int], str]) -> str:
    given: list[str] = spec["channels"]
    return at(next((given.index(one) for one in named if one in given), 0))


def _refuse_second(spec: Spec, live: Specs) -> None:
    """Raise the 409 for a route or a channel that another canary measures: two would be one."""
    for name, other in live.items():
        if other["route"] == spec["route"]:
            detail = f"Canary {name} is live on this route: {LIVE_REMEDY}."
            raise ProblemError(Problem("canary.live", detail))
        for channel in measured(spec):
            if channel in measured(other):
                detail = f"Canary {name} measures channel {channel} already: {LIVE_REMEDY}."
                raise ProblemError(Problem("canary.live", detail))


def _refuse_over(standing: StoredObject) -> None:
    if not is_live(standing.spec):
        state = standing.spec["state"]
        detail = f"This canary is over ({state}); what it was stays as it is. Make a new one."
        raise ProblemError(Problem("canary.over", detail))


async def _promote_route(change: Change, spec: Mapping[str, Any]) -> None:
    """Give the route the canary's channels, in the same COMMIT; both stand a route's checks."""
    route = await change.by_name("route", spec["route"])
    if route is None:
        raise RuntimeError("the route of a live canary stands")
    await change.put(Upsert("route", route.name, promoted_route(route.spec, spec), {}, "promoted"))
