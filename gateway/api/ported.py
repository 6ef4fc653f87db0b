"""/v1/ported-numbers: which numbers live with another carrier than their prefix's.

    POST   up to 1,000 numbers, each with its carrier, or null: its prefix's again
    GET    what is in force, the last changed first

Files of millions go in by `smsgw portability load`. A number does not belong in a URL, so an
override is ended by its body too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from gateway.api.desk import Desk, list_response, private_response, register
from gateway.api.fields import Checked
from gateway.api.filters import PAGING
from gateway.api.openapi_ported import MAX_NUMBERS
from gateway.configfields import Field, one_of, text
from gateway.views import rfc3339
from sms.model import Carrier
from sms.numbers import BadNumber
from sms.portability import NETWORKS, parse_portable

if TYPE_CHECKING:
    from gateway.api.port import FlowPort
    from store.ported import Ported

PORTED_NUMBERS = "/v1/ported-numbers"


def _some(value: object) -> str | None:
    is_good = isinstance(value, list) and 1 <= len(value) <= MAX_NUMBERS
    return None if is_good else f"must be a list of 1 to {MAX_NUMBERS} entries"


_CHANGE: Mapping[str, Field] = {"numbers": Field(_some, is_required=True, json=list)}
_ENTRY: Mapping[str, Field] = {
    "to": Field(text(40), is_required=True, json=str),
    "carrier": Field(
        one_of([str(word) for word in NETWORKS]), is_required=True, json=str, is_nullable=True
    ),
}


class PortedNumbers:
    """The routes; for the platform's keys alone."""

    def __init__(self, flow: FlowPort) -> None:
        self._flow = flow
        self._desk = Desk(flow)

    def register(self, app: FastAPI) -> None:
        """Add the routes; what they answer is described in `openapi_ported.py`."""
        register(app, PORTED_NUMBERS, "portedNumbers", POST=self.change, GET=self.list)

    async def change(self, request: Request) -> Response:
        """POST: all of these numbers or none; how many were changed."""
        key = self._desk.enter(request)
        good, checked = await self._desk.body(request, _CHANGE)
        numbers = _numbers(good.get("numbers", []), checked)
        checked.stop()
        porting = self._flow.porting
        counts = await porting.store.put(self._desk.author(request, key), numbers)
        await self._desk.at_once(porting.refresh)
        return private_response(counts._asdict())

    async def list(self, request: Request) -> Response:
        """GET: the overrides in force, the last changed first."""
        page = self._desk.page(request, self._desk.enter(request, *PAGING))
        found = await self._flow.porting.store.page(page.limit + 1, page.below)
        return list_response(page, [_view(one) for one in found], [one.change for one in found])


def _numbers(entries: list[Any], checked: Checked) -> dict[str, Carrier | None]:
    """Digits and carriers; every fault is told by its place."""
    numbers: dict[str, Carrier | None] = {}
    for index, entry in enumerate(entries):
        pointer = f"/numbers/{index}"
        good = checked.members(entry, _ENTRY, pointer)
        if "to" not in good:
            continue
        number = parse_portable(good["to"])
        if isinstance(number, BadNumber):
            checked.add(f"{pointer}/to", number.code, f"`to`: {number.detail}.")
        elif number in numbers:
            detail = "`to` stands in this request twice; leave one of them out."
            checked.add(f"{pointer}/to", "field.value", detail)
        else:
            word = good.get("carrier")
            numbers[number] = None if word is None else Carrier(word)
    return numbers


def _view(one: Ported) -> dict[str, Any]:
    return {
        "to": f"+{one.number}",
        "carrier": str(one.carrier),
        "changed_at": rfc3339(one.changed_at.timestamp()),
    }
