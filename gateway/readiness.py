"""What a worker lacks, and what the workers of a node lack, told as one list. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from sms.config import Route, Snapshot
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


def lacking(
    snapshot: Snapshot, is_reachable: Callable[[int], bool], why_down: Callable[[int], str]
) -> list[str]:
    """Routes over which nothing can go out now, and why, channel by channel.

    Where all channels are paused nothing is missing: an operator wants it so.
    """
    missing = []
    for route in snapshot.ways.values():
        is_wanted = not snapshot.paused.issuperset(route.channels)
        if is_wanted and not any(map(is_reachable, route.channels)):
            told = []
            for number in route.channels:
                known = snapshot.channels.get(number)
                if known is not None and number in snapshot.paused:
                    why = f"{known.admin_state} by an operator"
                else:
                    why = why_down(number) or "has just connected"
                told.append(f"{number if known is None else known.name}: {why}")
            names = "; ".join(told)
            words = route_words(route)
            missing.append(f"route {words}: none of its channels has a session ({names})")
    return missing


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
