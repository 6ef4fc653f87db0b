"""Slips that leave a recipe readable and wrong: it would be taken, and no message would arrive.

A place without quotes is a mapping to YAML, a request without {text} sends nobody's text, a key
written out is stored and shown in clear. No value is echoed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from adapters.http import settings
from adapters.http.recipe_section import Wrong, member
from adapters.http.recipe_values import ACCOUNT_PLACES, MESSAGE, QUESTION, REQUEST, SECRETS

_NUMBERS: Final = frozenset({"number", "number_plus", "number_national"})
_TEXTS: Final = frozenset({"text", "template_code", "variables", "variables_list"})
_PLACES: Final = MESSAGE | REQUEST | QUESTION | ACCOUNT_PLACES
_REQUESTS: Final = (("send",), ("query",), ("receipts", "pull"), ("inbound", "pull"))
# Names of headers and parameters that hold a secret whatever the provider; an app key is none.
_SECRET_NAME: Final = re.compile(
    r"(.*[-_])?(authorization|api[-_]?key|secret([-_]?key)?|password|passwd|pwd"
    r"|(access|auth)[-_]?(token|key))",
    re.IGNORECASE,
)
_MIN_SECRET: Final = 8  # characters; what is shorter is a word such as `v1`


def find_slips(raw: Mapping[str, Any]) -> Wrong:
    """What of the recipe's requests looks like a slip."""
    wrong: Wrong = []
    for way in _REQUESTS:
        part: object = raw
        for name in way:
            part = part.get(name) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping):
            at = "".join(f"/{name}" for name in way)
            request = {name: value for name, value in part.items() if name != "answer"}
            _find_unquoted(request, at, wrong)
            _find_in_clear(request, at, wrong)
            if settings.is_exposed(part.get("url")) and raw.get("plain_http") is not True:
                wrong.append((f"{at}/url", settings.EXPOSED))
    return wrong


def _find_unquoted(value: object, pointer: str, wrong: Wrong) -> None:
    """`to: {number}` is {number: null} in YAML: a mapping, and not the number."""
    if isinstance(value, list):
        for index, inner in enumerate(value):
            _find_unquoted(inner, f"{pointer}/{index}", wrong)
    if not isinstance(value, Mapping):
        return
    sole = next(iter(value)) if len(value) == 1 else None
    place = str(sole).partition("|")[0].strip()
    if place in _PLACES and value[sole] is None:
        wrong.append(
            (pointer, f'is a mapping to YAML; put the place in quotes: "{{{place}}}" and not bare')
        )
        return
    for name, inner in value.items():
        _find_unquoted(inner, member(pointer, name), wrong)


def _find_in_clear(request: Mapping[str, Any], at: str, wrong: Wrong) -> None:
    for part in ("headers", "query", "form", "json"):
        rows = request.get(part)
        for name, value in rows.items() if isinstance(rows, Mapping) else ():
            is_literal = isinstance(value, str) and len(value) >= _MIN_SECRET and "{" not in value
            if is_literal and _SECRET_NAME.fullmatch(str(name)):
                wrong.append(
                    (
                        member(f"{at}/{part}", name),
                        "holds a secret in clear, which every dry run would print; put it into a "
                        "file, name that as api_key_file, and write {api_key} here",
                    )
                )


def find_missing(names: Collection[str], *, has_each: bool) -> Wrong:
    """What a request cannot do without: to whom, and what; `names` are its places."""
    where = "the request or its `each`" if has_each else "the request"
    wrong: Wrong = []
    if not _NUMBERS & set(names):
        wrong.append(
            (
                "/send",
                f"has no place for the number, so that no message could arrive; write {{number}}, "
                f"{{number_plus}} or {{number_national}} into {where}",
            )
        )
    if not _TEXTS & set(names):
        wrong.append(
            (
                "/send",
                f"has no place for the text, so that all would get the same; write {{text}} "
                f"(or {{template_code}} with {{variables}}) into {where}",
            )
        )
    return wrong


def find_unused(given: Collection[str], used: Collection[str]) -> Wrong:
    """Secrets that were given and no template uses: often one is written out there."""
    return [
        (
            f"/{name}",
            f"is given, but no template uses it; write {{{name}}} where it belongs (never the "
            "secret itself), or remove it",
        )
        for name in SECRETS
        if name in given and name not in used
    ]
