"""One channel or route as the admin API is given it, checked as `smsgw apply` would check it.

    fields ─▶ an entry of a file ─▶ check_document's rules, beside what stands ─▶ Wanted
                                        └▶ faults, by pointers into the entry

A change that breaks another object is a fault of the entry: a route that does not fit any more is
named in it. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gateway.api.explain import child
from gateway.api.problems import FieldError
from gateway.document import ObjectKey, Surroundings, Wanted, check_value
from gateway.protocols import PROTOCOLS
from webhooks.address import AllowList

_PLACES = 3  # digits; what is longer may be a number that somebody made a name of
Section = Literal["channels", "routes"]


def check_entry(
    section: Section, entry: Mapping[str, Any], known: Mapping[ObjectKey, Mapping[str, Any]]
) -> tuple[Wanted | None, list[FieldError]]:
    """The object that the entry wants, beside those that are `known`; or what is wrong with it.

    An error's pointer "" speaks of a field that is missing. A name that may be somebody's number
    is in no pointer.
    """
    around = Surroundings(Path(), known, PROTOCOLS, AllowList.of([]))
    wanted, complaints = check_value({section: [entry]}, around)
    errors = []
    for one in complaints:
        path = one.pointer.split("/")[3:]  # behind /channels/0
        pointer = ""
        for word in path:
            is_place = word.isdecimal() and len(word) <= _PLACES  # of a list
            pointer = f"{pointer}/{word}" if is_place else child(pointer, word)
        shown = pointer[1:].partition("/")[0]
        detail = f"`{shown}`: {one.detail}." if shown else f"A field here {one.detail}."
        errors.append(FieldError(pointer, one.code, detail))
    return (wanted[0] if wanted and not errors else None), errors
