"""The body of an administrative request, checked against a table of fields: all faults at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.api.explain import MAX_ERRORS, child
from gateway.api.problems import NAME_LIKE, FieldError, ProblemError, of_fields
from gateway.configfields import LATER, Field, ListOf

_WORDS = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    (int, float): "a number",
    (str, int): "a string or a whole number",
    list: "a list",
    dict: "an object",
}


class Checked:
    """The good fields of one object, and the faults of the whole body."""

    def __init__(self) -> None:
        self.errors: list[FieldError] = []

    def members(
        self,
        document: object,
        table: Mapping[str, Field],
        pointer: str = "",
        *,
        is_partial: bool = False,
        is_open: bool = False,
    ) -> dict[str, Any]:
        """The fields that are right; `is_partial`: none has to be there.

        `is_open`: names outside the table are the caller's to check.
        """
        if not isinstance(document, dict):
            what = "The body" if not pointer else f"`{pointer[1:]}`"
            self.add(pointer, "field.type", f"{what} must be a JSON object.")
            return {}
        good = {}
        for name, given in document.items():
            known = table.get(name)
            value = _whole(given) if known is not None and known.json is int else given
            if known is None and is_open:
                good[name] = given
            elif known is None:
                shown = f"`{name}`" if NAME_LIKE.fullmatch(name) else "A field here"
                which = "that can be changed here" if is_partial else "of this object"
                good_names = ", ".join(table) or "none"
                detail = f"{shown} is not a field {which}; there are: {good_names}."
                self.add(child(pointer, name), "field.unknown", detail)
            elif self._is_good(value, known, f"{pointer}/{name}", name):
                good[name] = value
        for name, known in table.items():
            if known.is_required and not is_partial and name not in document:
                detail = f"`{name}` is missing; add it."
                self.add(f"{pointer}/{name}", "field.missing", detail)
        return good

    def add(self, pointer: str, code: str, detail: str) -> None:
        """One more fault."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(FieldError(pointer, code, detail))

    def stop(self) -> None:
        """Raise the 422 with every fault found so far."""
        if self.errors:
            raise ProblemError(of_fields(self.errors))

    def _is_good(self, value: object, known: Field, pointer: str, name: str) -> bool:
        if known.is_later:
            self.add(pointer, "field.unavailable", f"`{name}` {LATER}.")
        elif value is None:
            if known.is_nullable:
                return True
            self.add(pointer, "field.null", f"`{name}` is null; give a value, or leave it out.")
        elif not isinstance(value, known.json) or (
            isinstance(value, bool) and known.json is not bool
        ):
            self.add(pointer, "field.type", f"`{name}` must be {_WORDS[known.json]}.")
        else:
            return self._is_right(value, known, pointer, name)
        return False

    def _is_right(self, value: object, known: Field, pointer: str, name: str) -> bool:
        wrong = known.check(value)
        if wrong is None:
            return True
        entries = []
        if isinstance(known.check, ListOf) and isinstance(value, list):
            entries = known.check.entries(value)
        for index, what in entries:
            self.add(f"{pointer}/{index}", "field.value", f"An entry of `{name}` {what}.")
        if not entries:
            self.add(pointer, "field.value", f"`{name}` {wrong}.")
        return False


def _whole(value: object) -> object:
    """4000.0 is a whole number in JSON Schema."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
