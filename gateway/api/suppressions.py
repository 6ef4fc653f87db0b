"""/v1/suppressions: whose numbers may not be sent to (API section 5).

A tenant's key keeps the tenant's own list, an admin key the platform's, or with `tenant` that of a
tenant. A number does not belong in a URL: to find its entry, suppress it once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from compliance.suppressions import PLATFORM
from gateway.api.desk import (
    Desk,
    id_in,
    list_response,
    private_response,
    register,
)
from gateway.api.fields import Checked
from gateway.api.filters import PAGING
from gateway.api.problems import ProblemError, retry_after
from gateway.api.reply import caller, check_query, not_found
from gateway.configfields import Field, list_of, one_of, text
from gateway.views import mask_number, rfc3339
from sms.config import ApiKey
from sms.ids import from_text, to_text
from sms.model import MessageClass
from sms.numbers import BadNumber, parse_number
from store.objects import PREFIXES
from store.suppressions import PREFIX, Suppression, SuppressionStore

if TYPE_CHECKING:
    from gateway.api.port import FlowPort

SUPPRESSIONS = "/v1/suppressions"
_ONE = SUPPRESSIONS + "/{id:oid}"
_OWN: Mapping[str, Field] = {
    "to": Field(text(40), is_required=True, json=str),
    "classes": Field(list_of(one_of([str(word) for word in MessageClass]), least=1), json=list),
}
_ANYBODYS: Mapping[str, Field] = {**_OWN, "tenant": Field(text(40), json=str)}
_ANYBODYS_LIST: Mapping[str, Field] = {"tenant": Field(text(40), json=str), **PAGING}
_DEFAULT = [MessageClass.MARKETING]


class SuppressionRoutes:
    """The routes; each says whose list it is about before anything else."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_policy.py`."""
        register(app, SUPPRESSIONS, "suppressions", POST=self.create, GET=self.list)
        register(app, _ONE, "suppression", GET=self.read, DELETE=self.remove)

    async def create(self, request: Request) -> Response:
        """POST: suppress a number; 200 when it was already, with all its classes."""
        key = self._caller(request, "send", only_stops=True)
        check_query(request)
        table = _OWN if key.tenant else _ANYBODYS
        good, checked = await self._desk.body(request, table)
        owner = self._owner(key, good.get("tenant"), "field.value", checked)
        number = None
        if "to" in good:
            number = parse_number(good["to"])
            if isinstance(number, BadNumber):
                checked.add("/to", number.code, f"`to`: {number.detail}.")
        checked.stop()
        if number is None or isinstance(number, BadNumber):
            raise RuntimeError("a number that is not good was not told")
        entry, is_new = await self._store.put(
            self._desk.author(request, key),
            owner,
            number.digits,
            [MessageClass(word) for word in good.get("classes", _DEFAULT)],
            mask_number(number.digits),
        )
        await self._in_force()
        response = private_response(self._view(entry), 201 if is_new else 200)
        if is_new:
            response.headers["location"] = f"{SUPPRESSIONS}/{entry.public_id}"
        return response

    async def list(self, request: Request) -> Response:
        """GET: the entries of one list, the newest first."""
        key = self._caller(request, "read")
        page = self._desk.page(request, key, PAGING if key.tenant else _ANYBODYS_LIST)
        checked = Checked()
        owner = self._owner(key, page.given.get("tenant"), "query.value", checked)
        checked.stop()
        found = await self._store.page(owner, page.limit + 1, page.below)
        return list_response(page, [self._view(one) for one in found], [one.id for one in found])

    async def read(self, request: Request) -> Response:
        """GET: one entry."""
        key = self._caller(request, "read")
        check_query(request)
        return private_response(self._view(await self._entry(request, key)))

    async def remove(self, request: Request) -> Response:
        """DELETE: the number may be sent to again."""
        key = self._caller(request, "send")
        check_query(request)
        entry = await self._entry(request, key)
        author = self._desk.author(request, key)
        if not await self._store.remove(author, entry, mask_number(entry.number)):
            raise not_found()
        await self._in_force()
        return Response(status_code=204)

    # -- whose ---------------------------------------------------------------------------------

    def _caller(self, request: Request, scope: str, *, only_stops: bool = False) -> ApiKey:
        key: ApiKey = request.state.key
        scope = scope if key.tenant else "admin"
        return caller(request, self._flow, scope, only_stops=only_stops)

    def _owner(self, key: ApiKey, named: str | None, code: str, checked: Checked) -> int:
        if key.tenant or named is None:
            return key.tenant or PLATFORM
        tenant = from_text(PREFIXES["tenant"], named)
        if tenant is None or tenant not in self._flow.snapshot.tenants:
            checked.add("/tenant", code, "`tenant` is not the id of a tenant (ten_…).")
            return PLATFORM
        return tenant

    async def _entry(self, request: Request, key: ApiKey) -> Suppression:
        entry = await self._store.find(id_in(request, "id", PREFIX))
        if entry is None or (key.tenant and entry.tenant != key.tenant):
            raise not_found()
        return entry

    # -- store ---------------------------------------------------------------------------------

    @property
    def _store(self) -> SuppressionStore:
        if self._flow.suppressions is None:
            detail = "This process has no suppression list."
            raise ProblemError(retry_after("store.unavailable", detail, 2))
        return self._flow.suppressions.store

    async def _in_force(self) -> None:
        """In this process now; the others look each second."""
        if self._flow.suppressions is not None:
            await self._desk.at_once(self._flow.suppressions.refresh)

    @staticmethod
    def _view(entry: Suppression) -> dict[str, Any]:
        tenant = None if entry.tenant == PLATFORM else to_text(PREFIXES["tenant"], entry.tenant)
        return {
            "id": entry.public_id,
            "to": f"+{entry.number}",
            "classes": [str(cls) for cls in MessageClass if cls in entry.classes],
            "reason": entry.why.name.lower(),
            "tenant": tenant,
            "created_at": rfc3339(entry.created_at.timestamp()),
        }
