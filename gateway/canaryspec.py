"""A canary as it is stored, and what each step of its life makes of it.

    running ─▶ next step ─▶ … ─▶ promoted        by the judge or by an operator
       │ ▲
       ▼ │     paused: keeps its share
     paused ─▶ promoted │ rolled_back │ aborted  nobody is on it any more

Both the admin API and the judge (`gateway/canary_judge.py`) change a canary by these alone. What
is stored: `route`, `baseline` and `channels` by name, `steps` and `share` in percent, `state`,
`since` (when the step began, or the canary ended), `reason` of an end that no operator asked for,
and `gates`, the limits that are stricter than usual, by the names of
`failover.canary.CanaryPolicy`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from gateway.configfields import MAX_BACKUPS, Field, list_of, name, number, text, whole
from gateway.views import rfc3339
from sms.config import CanaryState

Spec = dict[str, Any]
STEPS: Final = (5, 30, 100)  # percent
FULL: Final = 100
MAX_STEPS: Final = 10
# The limits of a gate that a canary may have stricter than usual, from … to what is usual, or the
# other way round: RELIABILITY section 8.
GATES: Final[Mapping[str, tuple[float, float]]] = {
    "step_s": (600, 604_800),
    "step_finals": (500, 1_000_000),
    "delivery_lower": (0.001, 0.02),
    "failure_share": (0.001, 0.05),
    "answer_factor": (1.1, 1.5),
    "complaint_share": (0.0001, 0.001),
}
_WHOLE: Final = ("step_finals",)


def _steps(value: object) -> str | None:
    wrong = list_of(whole(1, FULL), least=1, most=MAX_STEPS)(value)
    if wrong is None and isinstance(value, list) and sorted(value) != value:
        wrong = "must grow from entry to entry"
    if wrong is None and isinstance(value, list) and value[-1] != FULL:
        wrong = f"must end with {FULL}: behind it the canary is promoted"
    return wrong


_WORD = text(128)  # a route's name holds its tenant's
CANARY_CHANGE: Final[Mapping[str, Field]] = {
    "steps": Field(_steps, json=list),
    "gates": Field(lambda _: None, json=dict),  # members: GATE
}
CANARY: Final[Mapping[str, Field]] = {
    "name": Field(name, is_required=True, json=str),
    "route": Field(_WORD, is_required=True, json=str),
    "channel": Field(_WORD, json=str),
    "channels": Field(list_of(_WORD, least=1, most=1 + MAX_BACKUPS), json=list),
    **CANARY_CHANGE,
}
GATE: Final[Mapping[str, Field]] = {
    word: Field(whole(int(low), int(high)), json=int)
    if word in _WHOLE
    else Field(number(low, high), json=(int, float))
    for word, (low, high) in GATES.items()
}


def new_canary(
    route: str,
    channels: Sequence[str],
    baseline: str,
    now: float,
    *,
    steps: Sequence[int] = STEPS,
    gates: Mapping[str, float] | None = None,
) -> Spec:
    """A canary at its first step; `now` is Unix seconds, as everywhere here.

    `baseline` is the route's first channel, which stays that for as long as the canary lives.
    """
    return {
        "route": route,
        "baseline": baseline,
        "channels": list(channels),
        "steps": list(steps),
        "share": steps[0],
        "state": str(CanaryState.RUNNING),
        "since": rfc3339(now),
        "gates": dict(gates or {}),
    }


def in_front(candidate: str, channels: Iterable[str]) -> list[str]:
    """The candidate before a route's own channels, of which the last may have no place."""
    others = [one for one in channels if one != candidate]
    return [candidate, *others][: 1 + MAX_BACKUPS]


def is_live(spec: Mapping[str, Any]) -> bool:
    """Whether destinations are on it."""
    return CanaryState(spec["state"]).is_live


def at_share(spec: Mapping[str, Any], share: int, now: float) -> Spec:
    """At another step, which begins now."""
    return {**spec, "share": share, "since": rfc3339(now)}


def paused(spec: Mapping[str, Any]) -> Spec:
    """Where it is, without gates."""
    return {**spec, "state": str(CanaryState.PAUSED)}


def resumed(spec: Mapping[str, Any], now: float) -> Spec:
    """Its step begins anew: what happened in the pause is not judged. A running one stays."""
    if spec["state"] == CanaryState.RUNNING:
        return dict(spec)
    return {**spec, "state": str(CanaryState.RUNNING), "since": rfc3339(now)}


def rolled_back(spec: Mapping[str, Any], now: float) -> Spec:
    """Ended by bad gates: all destinations are the route's again."""
    return _ended(spec, CanaryState.ROLLED_BACK, 0, now)


def aborted(spec: Mapping[str, Any], now: float) -> Spec:
    """Ended by an operator: the same."""
    return _ended(spec, CanaryState.ABORTED, 0, now)


def promoted(spec: Mapping[str, Any], now: float) -> Spec:
    """Ended well; belongs into one transaction with `promoted_route`."""
    return _ended(spec, CanaryState.PROMOTED, 100, now)


def promoted_route(route: Mapping[str, Any], spec: Mapping[str, Any]) -> Spec:
    """The canary's route with its channels."""
    return {**route, "channels": list(spec["channels"])}


def _ended(spec: Mapping[str, Any], state: CanaryState, share: int, now: float) -> Spec:
    return {**at_share(spec, share, now), "state": str(state)}
