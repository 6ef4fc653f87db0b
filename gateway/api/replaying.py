"""What `:replay` is asked: one event, those of a time, or every dead letter. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gateway.api.fields import Checked
from gateway.api.filters import moment, moment_of
from gateway.configfields import Field, flag, text
from gateway.views import rfc3339
from gateway.webhook_desk import first_id
from sms.ids import from_text
from store.attempts import KEPT_DAYS

REPLAY: Mapping[str, Field] = {
    "event_id": Field(text(40), json=str),
    "created_after": Field(moment, json=str),
    "created_before": Field(moment, json=str),
    "failed": Field(flag, json=bool),
}
_FORMS = ({"event_id"}, {"created_after", "created_before"}, {"failed"})
_WORDS = "`event_id`, or `created_after` and `created_before`, or `failed`: true"


class Asked(NamedTuple):
    """`event_id`, or the ids above `after` up to `until`; `told` is the answer."""

    event_id: int | None
    after: int
    until: int
    is_failed: bool
    told: dict[str, Any]


def asked_of(good: Mapping[str, Any], checked: Checked, now: float) -> Asked:
    """Raises the 422 with all that is wrong; `now` is Unix seconds."""
    checked.stop()
    if sum(not form.isdisjoint(good) for form in _FORMS) > 1:
        detail = f"Only one of these at a time, remove the others: {_WORDS}."
        checked.add("", "field.value", detail)
    elif set(good) not in _FORMS or good.get("failed") is False:
        checked.add("", "field.missing", f"Say what to send again: {_WORDS}.")
    checked.stop()
    if "event_id" in good:
        event_id = from_text("evt", good["event_id"])
        if event_id is None:
            checked.add("/event_id", "field.value", "`event_id` is not the id of an event (evt_…).")
        checked.stop()
        return Asked(event_id, 0, 0, False, {"event_id": good["event_id"]})
    if "failed" in good:
        return Asked(None, 0, first_id(now), True, {"failed": True})
    return _range(good, checked, now)


def _range(good: Mapping[str, Any], checked: Checked, now: float) -> Asked:
    after, before = (
        found.timestamp() if (found := moment_of(good[name])) is not None else now
        for name in ("created_after", "created_before")
    )
    before = min(before, now)
    if after < now - KEPT_DAYS * 86_400:
        detail = f"`created_after` is more than {KEPT_DAYS} days ago; no replay goes further back."
        checked.add("/created_after", "field.value", detail)
    elif after >= before:
        detail = "`created_after` is not before `created_before`, or not in the past."
        checked.add("/created_after", "field.value", detail)
    checked.stop()
    told = {"created_after": rfc3339(after), "created_before": rfc3339(before)}
    return Asked(None, first_id(after), first_id(before), False, told)
