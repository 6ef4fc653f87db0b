"""/v1/templates: registered texts and their codes at the vendors (API section 5).

    fields ─▶ under the configuration's lock: tenant, channels, a twin wherever a route asks for
              one ═COMMIT, audit row═▶ answer

What a template is for (tenant, name, class) it keeps: messages wait that are its.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

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
from gateway.api.explain import child
from gateway.api.fields import Checked
from gateway.api.filters import PAGING
from gateway.api.problems import FieldError, Problem, ProblemError, of_fields
from gateway.api.reply import not_found
from gateway.canaryfit import canary_lacks, lack_detail, live_ones
from gateway.configfields import TEMPLATE, TEMPLATE_CHANGE, twins_refusals
from gateway.specs import changed_template, template_spec, template_view
from gateway.templatefit import crowded, lacks, needed_by
from sms.config import ApiKey
from sms.ids import from_text, to_text
from sms.templates import MAX_TEMPLATES
from store.objects import PREFIXES, Change, StoredObject, Upsert
from store.snapshot import ANY

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

TEMPLATES = "/v1/templates"
_ONE = TEMPLATES + "/{id:oid}"
_KIND = "template"
_Specs = dict[str, dict[str, Any]]
_Views = list[dict[str, Any]]  # `list` is a route inside the class
_Decide = Callable[[Change, StoredObject], Awaitable[StoredObject]]


class TemplateRoutes:
    """The routes; for admin keys."""

    def __init__(self, flow: FlowPort) -> None:
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_templates.py`."""
        register(app, TEMPLATES, "templates", POST=self.create, GET=self.list)
        register(app, _ONE, "template", GET=self.read, PATCH=self.patch, DELETE=self.remove)
        register(app, _ONE + ":rollback", "rollbackTemplate", POST=self.rollback)

    async def create(self, request: Request) -> Response:
        """POST: a new template."""
        desk = self._desk
        key = desk.enter(request)
        good, checked = await desk.body(request, TEMPLATE)
        _check_twins(good, checked)
        checked.stop()
        async with desk.store.change(desk.author(request, key)) as change:
            tenant = await _tenant_named(change, good.get("tenant"))
            name = f"{tenant}/{good['name']}"
            if await change.by_name(_KIND, name) is not None:
                detail = "Another template of this tenant has this name; choose another."
                errors = [FieldError("/name", "name.taken", detail)]
                raise ProblemError(Problem("name.taken", detail, errors))
            spec = template_spec(good, tenant)
            await _check_room(change, name, spec)
            await _check_fit(change, name, spec)
            made = await change.put(Upsert(_KIND, name, spec, {}))
        await desk.done()
        response = private_response({"id": made.public_id}, 201)
        response.headers["location"] = f"{TEMPLATES}/{made.public_id}"
        response.headers["etag"] = f'"{made.version}"'
        return response

    async def list(self, request: Request) -> Response:
        """GET: all templates, the newest first."""
        page = self._desk.page(request, self._desk.enter(request, *PAGING))
        found = await self._desk.store.page(_KIND, page.limit + 1, page.below)
        return list_response(page, await self._views(*found), [one.id for one in found])

    async def read(self, request: Request) -> Response:
        """GET: one template."""
        self._desk.enter(request)
        found = await self._desk.store.find(_KIND, id_in(request, "id", PREFIXES[_KIND]))
        if found is None:
            raise not_found()
        [view] = await self._views(found)
        return object_response(view)

    async def patch(self, request: Request) -> Response:
        """PATCH: another text, other twins."""
        key = self._desk.enter(request)
        good, checked = await self._desk.body(request, TEMPLATE_CHANGE, is_partial=True)
        _check_twins(good, checked)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=True)
            merged = {**standing.spec, **good}
            again = Checked()
            _check_twins(merged, again)  # the orders that stand, for another text
            again.stop()
            spec = changed_template(standing.spec, good)
            await _check_fit(change, standing.name, spec)
            return await change.put(Upsert(_KIND, standing.name, spec, {}))

        return await self._changed(request, key, decide)

    async def rollback(self, request: Request) -> Response:
        """POST: text and twins as they were at a version."""
        key = self._desk.enter(request)
        good, checked = await self._desk.body(request, VERSION)
        checked.stop()

        async def decide(change: Change, standing: StoredObject) -> StoredObject:
            check_if_match(request, standing, is_required=False)
            earlier = await change.at(standing, good["version"])
            if earlier is None or good["version"] >= change.version:
                detail = "`version` is not one that this object had; the audit log names them."
                raise ProblemError(of_fields([FieldError("/version", "version.unknown", detail)]))
            await _check_fit(change, standing.name, earlier.spec, at="/version")
            return await change.put(Upsert(_KIND, standing.name, earlier.spec, {}, "rolled_back"))

        return await self._changed(request, key, decide)

    async def remove(self, request: Request) -> Response:
        """DELETE: refused while a route would take nothing any more without it."""
        desk = self._desk
        key = desk.enter(request)
        await desk.no_body(request)
        async with desk.store.change(desk.author(request, key)) as change:
            standing = await _standing(change, request)
            check_if_match(request, standing, is_required=False)
            known = await change.specs("channel", "route", _KIND)
            channels, routes, templates = (_of(kind, known) for kind in ("channel", "route", _KIND))
            route = needed_by(channels, routes, templates, standing.name)
            if route is not None:
                detail = (
                    f"Route {route} has only channels that send registered templates, and this is "
                    "the last one for it; add another template or another channel first."
                )
                raise ProblemError(Problem("template.in_use", detail))
            await change.remove(standing)
        await desk.done()
        return Response(status_code=204)

    async def _changed(self, request: Request, key: ApiKey, decide: _Decide) -> Response:
        """Change one template under the lock; its new state as the answer."""
        desk = self._desk
        async with desk.store.change(desk.author(request, key)) as change:
            changed = await decide(change, await _standing(change, request))
        await desk.done()
        [view] = await self._views(changed)
        return object_response(view)

    async def _views(self, *found: StoredObject) -> _Views:
        owners = {one.spec["tenant"] for one in found} - {ANY}
        numbers = await self._desk.store.ids("tenant", owners) if owners else {}
        shown = {name: to_text(PREFIXES["tenant"], number) for name, number in numbers.items()}
        return [template_view(one, shown) for one in found]


async def _standing(change: Change, request: Request) -> StoredObject:
    standing = await change.by_id(_KIND, id_in(request, "id", PREFIXES[_KIND]))
    if standing is None:
        raise not_found()
    return standing


async def _tenant_named(change: Change, given: str | None) -> str:
    """The tenant's name; "*" where none is given."""
    if given is None:
        return ANY
    number = from_text(PREFIXES["tenant"], given)
    tenant = None if number is None else await change.by_id("tenant", number)
    if tenant is None:
        detail = "`tenant` is not the id of a tenant (ten_…); correct it, or leave it out for all."
        raise ProblemError(of_fields([FieldError("/tenant", "field.value", detail)]))
    return tenant.name


def _check_twins(good: Mapping[str, Any], checked: Checked) -> None:
    for path, wrong in twins_refusals(good.get("twins", {}), good.get("text")):
        checked.add(reduce(child, path, "/twins"), "field.value", f"`twins` {wrong}.")


async def _check_room(change: Change, name: str, spec: Mapping[str, Any]) -> None:
    known = _of(_KIND, await change.specs(_KIND))
    if spec["tenant"] in crowded({**known, name: spec}):
        detail = (
            f"A tenant, or everybody together, has at most {MAX_TEMPLATES} templates; delete what "
            "nobody sends any more, or make one of several with a variable."
        )
        raise ProblemError(of_fields([FieldError("/tenant", "template.too_many", detail)]))


async def _check_fit(
    change: Change, name: str, spec: Mapping[str, Any], *, at: str | None = None
) -> None:
    """Refuse twins of channels that are not there, and routes that would lack one.

    Errors point at the channel, or at whatever brings it back.
    """
    known = await change.specs("channel", "route", "canary")
    channels, routes, canaries = (_of(kind, known) for kind in ("channel", "route", "canary"))
    detail = "`twins` names no channel of this gateway; add it there first, or correct the name."
    errors = [
        FieldError(at or child("/twins", word), "field.value", detail)
        for word in spec["twins"]
        if word not in channels
    ]
    errors += [
        FieldError(at or "/twins", "template.twin_missing", f"`twins`: {lack.detail}.")
        for lack in lacks(channels, routes, {name: spec})
    ]
    errors += [
        FieldError(at or "/twins", "template.twin_missing", f"`twins`: {lack_detail(lack)}.")
        for lack in canary_lacks(channels, routes, live_ones(canaries), {name: spec})
    ]
    if errors:
        raise ProblemError(of_fields(errors))


def _of(kind: str, known: Mapping[tuple[str, str], dict[str, Any]]) -> _Specs:
    return {name: spec for (of, name), spec in known.items() if of == kind}
