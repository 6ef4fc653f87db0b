"""docs/reasons.md: every reason code, from sms/reasons.py.

    python -m docs.reasons       write the page anew after a change there

Code, meaning and whether another try may help are the table's. How a message ends with a reason is
what reports (receipts/data/report-words.json) and refused requests (gateway/api/problems.py) say,
and `_ENDS` here; what to do about it is `_REMEDIES` here, one for each code.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Final

from gateway.api.problems import KINDS
from sms.reasons import REASONS, Reason

PAGE: Final = Path(__file__).with_suffix(".md")
_WORDS: Final = PAGE.parents[1] / "receipts" / "data" / "report-words.json"

_HEAD: Final = """# Reason codes

`reason` of a message, of its events and of its timeline; made from `sms/reasons.py` by `python -m
docs.reasons`. A code keeps its meaning; later versions may add some. The carrier's own word stands
beside it (`carrier_code`).

*Ends as* says how a message ends with it: `failed` means that a channel refused it for good or no
other one could take it, `undelivered` that a carrier reported it, `rejected` that policy refused
it before it was sent, a number that the request was refused at once and there is no message. "on
the way" stands in the timeline or in events of a message that is not at its end. What expires
while it waits for a channel keeps the reason it waited for. What a text of several segments ends
with is the reason of a segment that did not arrive.

*Again* says whether the same text to the same number may succeed later (`retryable`): wait, and
send it as a new message with a new `Idempotency-Key`.
"""
_TABLE: Final = """
| code | meaning | ends as | again | what to do |
|---|---|---|---|---|
"""
_TITLES: Final = {
    "recipient": "The recipient",
    "content": "The text",
    "signature": "The signature",
    "carrier": "The carrier",
    "channel": "The channel",
    "submit": "Submits and processes",
    "policy": "Policy",
    "tenant": "The tenant, cancellations",
}
_JOINED: Final = {  # families that share a table with the one named
    **dict.fromkeys(
        ("process", "segment", "uncertain", "evidence", "validity", "attempts"), "submit"
    ),
    **dict.fromkeys(("route", "internal", "store"), "submit"),
    "canceled": "tenant",
}

_UNUSED: Final = "not given by this version"
_ON_THE_WAY: Final = "on the way"
# How else a message ends with it, beside what reports and refused requests say.
_ENDS: Final[dict[str, tuple[str, ...]]] = {
    **{reason.code: ("`failed`",) for reason in REASONS if reason.cause is not None},
    "recipient.invalid": ("`failed`", "`rejected`"),
    "recipient.blocked": ("`failed`", "`rejected`"),
    **dict.fromkeys(("carrier.undelivered", "carrier.expired", "carrier.deleted"), ()),
    **dict.fromkeys(
        ("channel.timeout", "channel.link_lost", "submit.timeout", "segment.uncertain"),
        (_ON_THE_WAY,),
    ),
    **dict.fromkeys(
        ("channel.not_connected", "channel.removed", "uncertain.resend", "uncertain.operator"),
        (_ON_THE_WAY,),
    ),
    **dict.fromkeys(("process.lost", "store.restored"), (_ON_THE_WAY,)),
    "policy.quiet_hours": (_ON_THE_WAY,),
    "carrier.throttled": (_ON_THE_WAY,),
    "channel.unavailable": ("`failed`",),
    "evidence.none": ("`unknown`", "`partially_delivered`"),
    "evidence.not_accepted": ("`failed`", "`undelivered`"),
    "validity.expired": ("`expired`",),
    "policy.opted_out": ("`rejected`",),
    "canceled.by_tenant": ("`canceled`",),
    **dict.fromkeys(
        ("carrier.blocked", "channel.window_full", "submit.timeout", "attempts.used_up"),
        (_UNUSED,),
    ),
    **dict.fromkeys(
        ("internal.quarantined", "policy.suppressed", "policy.fuse", "policy.consent_missing"),
        (_UNUSED,),
    ),
    **dict.fromkeys(("policy.word_list", "canceled.by_operator"), (_UNUSED,)),
}

_REMOVE: Final = "Take the number out of your data."
_ASK: Final = "Ask the operator; the carrier's word says what it dislikes."
_WAITING: Final = "Nothing: the gateway waits for evidence, then goes by the class (outcomes.md)."
_OPERATOR: Final = "Operator: mend the channel's account or settings."
_LATER: Final = "Send it again later."
_NONE: Final = "Nothing."
_REMEDIES: Final[dict[str, str]] = {
    "recipient.invalid": f"{_REMOVE} Operator, when it does exist: policy.md, suppressions.",
    "recipient.absent": _LATER,
    "recipient.blocked": _REMOVE,
    "recipient.ported": "Operator: load the ported numbers (admin.md).",
    "recipient.country_not_allowed": "Ask the operator to add the country to `countries`.",
    "content.blocked": "Change the text.",
    "content.not_gsm7": "Leave `encoding` out, or replace the characters.",
    "content.too_long": "Shorten it, or raise `max_segments` to the number named.",
    "content.empty": "Send a text.",
    "content.signature": "Operator: have the signature filed at the carrier.",
    "content.template": "Operator: have the template filed there (templates.md).",
    "signature.unknown": "Use a signature that is filed for the tenant.",
    "signature.required": "Ask the operator to file a signature for the tenant.",
    "content.signature_in_text": "Remove 【】 from the text; name the brand in `signature`.",
    "carrier.rejected": _ASK,
    "carrier.blocked": _ASK,
    "carrier.undelivered": _LATER,
    "carrier.expired": f"{_LATER} The phone was away for too long.",
    "carrier.deleted": _ASK,
    "carrier.frequency_cap": "Send this number less; again tomorrow.",
    "carrier.throttled": f"{_LATER} Operator: the channel's rate is above what is agreed.",
    "carrier.system_error": _LATER,
    "carrier.unknown_outcome": "Treat it as perhaps delivered: a new one may be a second text.",
    "carrier.unknown_code": "Operator: map the code (channels.md, `status_classes`).",
    "channel.rejected": _OPERATOR,
    "channel.misconfigured": _OPERATOR,
    "channel.account": _OPERATOR,
    "channel.permission": _OPERATOR,
    "channel.error": _LATER,
    "channel.timeout": _WAITING,
    "channel.link_lost": _WAITING,
    "channel.unavailable": f"{_LATER} Operator: add a channel that can take it to the route.",
    "channel.removed": "Nothing: another channel takes it, or evidence is awaited.",
    "channel.not_connected": "Nothing: it waits, or goes over a backup.",
    "channel.window_full": "Nothing: it waits.",
    "submit.timeout": _WAITING,
    "process.lost": _WAITING,
    "segment.uncertain": _WAITING,
    "uncertain.resend": "Count on a second text: `duplicate_risk` is true.",
    "evidence.none": "Treat it as perhaps delivered; a late receipt corrects `unknown`.",
    "evidence.not_accepted": _LATER,
    "validity.expired": "Send it again if it is still wanted, with a longer `valid_for_s`.",
    "attempts.used_up": _LATER,
    "route.missing": "Ask the operator to add a route for this class, carrier and country.",
    "internal.quarantined": "Tell the operator the message's id.",
    "internal.error": "Tell the operator the `request_id`; on a send, ask with the same key.",
    "uncertain.operator": "Count on a second text: `duplicate_risk` is true.",
    "store.restored": "It may have been sent: no copy follows by itself. Operator: operations.md.",
    "policy.frequency_cap": "Wait for the seconds in `Retry-After`.",
    "policy.quiet_hours": "Nothing: it goes at the next opening hour.",
    "policy.opted_out": "Do not send to this number; see `/v1/suppressions`.",
    "policy.suppressed": "Do not send to this number; see `/v1/suppressions`.",
    "policy.fuse": "Ask the operator.",
    "policy.consent_missing": "Send marketing to those who agreed only.",
    "policy.word_list": "Change the text.",
    "tenant.suspended": "Ask the operator.",
    "canceled.by_tenant": _NONE,
    "canceled.by_operator": "Ask the operator.",
}


def _reported() -> dict[str, list[str]]:
    """The final states that reports bring, by reason."""
    reactions = json.loads(_WORDS.read_text("utf-8"))["reactions"].values()
    found: dict[str, list[str]] = {}
    for reaction in reactions:
        if reaction["reason"] and reaction["state"]:
            found.setdefault(reaction["reason"], []).append(f"`{reaction['state']}`")
    return found


def ends(code: str) -> list[str]:
    """How a message with this reason ends, each once."""
    refused = [str(KINDS[code].status)] if code in KINDS else []
    all_of_them = [*_ENDS.get(code, ()), *_reported().get(code, ()), *refused]
    return list(dict.fromkeys(all_of_them))


def _linked(text: str) -> str:
    for name in ("outcomes", "policy", "admin", "templates", "channels", "operations"):
        text = text.replace(f"{name}.md", f"[{name}]({name}.md)")
    return text


def _row(reason: Reason) -> str:
    told = ", ".join(ends(reason.code))
    again = "yes" if reason.is_retryable else "no"
    remedy = _linked(_REMEDIES[reason.code])
    return f"| `{reason.code}` | {reason.text} | {told} | {again} | {remedy} |"


def _family(reason: Reason) -> str:
    family = reason.code.partition(".")[0]
    return _JOINED.get(family, family)


def page() -> str:
    """The whole page."""
    order = list(_TITLES)
    by_family = sorted(REASONS, key=lambda reason: order.index(_family(reason)))
    parts = [_HEAD]
    for family, reasons in itertools.groupby(by_family, _family):
        rows = "\n".join(_row(reason) for reason in reasons)
        parts.append(f"\n## {_TITLES[family]}\n{_TABLE}{rows}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
