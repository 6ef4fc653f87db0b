"""What the workers of a node lack, told as one list. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sms.config import Route
from sms.ids import to_text

# Why a channel is down for a worker that holds none of its sessions.
NO_SESSION = "no living node of role carrier or all has a session"
_ROUTE = re.compile(r"(route \S+: .*?) \((.*)\)", re.DOTALL)


def route_words(route: Route) -> str:
    """A route as the configuration file says it: tenant/class/carrier/country, * for any.

    The tenant by its id: /readyz answers anybody, and whose customers we serve is not theirs.
    """
    tenant = to_text("ten", route.tenant) if route.tenant else None
    words = (tenant, route.message_class, route.carrier, route.country or None)
    return "/".join("*" if word is None else str(word) for word in words)


def fold(missing: Iterable[str]) -> list[str]:
    """What several workers miss, each thing once.

    Of a route with several reasons those are left out that only say that the worker itself has
    nothing to do with the channel.
    """
    found: dict[str, list[str]] = {}
    for text in missing:
        route = _ROUTE.fullmatch(text)
        head, reason = (route[1], route[2]) if route else (text, "")
        reasons = found.setdefault(head, [])
        if reason and reason not in reasons:
            reasons.append(reason)
    return [_with_reasons(head, reasons) for head, reasons in found.items()]


def _with_reasons(head: str, reasons: list[str]) -> str:
    told = [reason for reason in reasons if NO_SESSION not in reason] or reasons
    return f"{head} ({'; '.join(told)})" if told else head
