"""How a simulated carrier behaves, and how that is changed while it runs.

The names and bounds are a table; what is left out of a change keeps its value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

# What carriers do with reports, besides sending one after the answer:
QUIRKS = (
    "none",
    "before_answer",  # the report first
    "twice",
    "accepted_first",  # one that says ACCEPTD, then the report
    "decimal_id",  # SMPP: the id in decimal, the answer's is hexadecimal
)
MAXIMUM = 86_400_000  # of a whole number: a day in milliseconds


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the carrier does with what it gets."""

    latency_ms: int = 5  # from a submit to its answer
    receipt_delay_ms: int = 300  # from that answer to the report
    failure_share: float = 0.0  # of submits, answered with `failure_status`
    throttle_share: float = 0.0  # of submits, answered with "too fast"
    silent: bool = False  # takes submits, answers none of them, makes no reports
    receipts: bool = True
    reports_held: bool = False  # on wires: they are made, and wait
    reports_per_s: int = 0  # on wires: so many are offered in a second, 0 = as they come
    link: str = "up"  # "down": drops its connections and refuses new ones
    # What a failing submit is answered with (SMPP: RSYSERR). Vendors: 200 = a verdict of its own
    # in the vendor's words, another HTTP status = the whole request's answer.
    failure_status: int = 0x08
    says_not_accepted: bool = True  # vendors: a 5xx says in its body that nothing was accepted
    takes_per_s: int = 0  # submits that it takes in a second, of all clients; beyond: "too fast"
    undelivered_share: float = 0.0  # of reports, saying UNDELIV instead of DELIVRD
    report_quirk: str = "none"  # what is odd about its reports, one of QUIRKS
    congestion: int | None = None  # told with each answer to an SMPP 5.0 client, 0 to 100

    def shown(self) -> dict[str, Any]:
        """The fields as the control port shows them."""
        return asdict(self)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _wrong(name: str, value: Any) -> str | None:  # noqa: ANN401 – straight from JSON
    match name:
        case "latency_ms" | "receipt_delay_ms" | "takes_per_s" | "reports_per_s":
            is_good, remedy = _is_whole(value, 0, MAXIMUM), f"a whole number to {MAXIMUM}"
        case "failure_share" | "throttle_share" | "undelivered_share":
            is_good, remedy = _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"
        case "congestion":
            is_good = value is None or _is_whole(value, 0, 100)
            remedy = "a whole number from 0 to 100, or null to say nothing"
        case "silent" | "receipts" | "reports_held" | "says_not_accepted":
            is_good, remedy = isinstance(value, bool), "true or false"
        case "report_quirk":
            is_good, remedy = value in QUIRKS, f"one of {', '.join(QUIRKS)}"
        case "link":
            is_good, remedy = value in ("up", "down"), '"up" or "down"'
        case "failure_status":
            is_good, remedy = _is_whole(value, 1, 0xFFFFFFFF), "a status from 1 to 4294967295"
        case _:
            return f"is unknown; known: {', '.join(Behaviour.__dataclass_fields__)}"
    return None if is_good else f"give {remedy}"


def change(now: Behaviour, raw: object) -> Behaviour | list[tuple[str, str]]:
    """The behaviour after a change, or everything wrong with it: (JSON pointer, detail)."""
    if not isinstance(raw, Mapping):
        return [("", "give a JSON object")]
    wrong = [(f"/{name}", detail) for name, value in raw.items() if (detail := _wrong(name, value))]
    return wrong or replace(now, **raw)
