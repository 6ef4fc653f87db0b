"""`template_id` and `variables` of a send: which text they stand for, and of which class."""

from __future__ import annotations

from msgspec import UNSET, structs

from gateway.api.explain import child
from gateway.api.models import SendRequest
from gateway.api.problems import FieldError
from sms.config import Snapshot
from sms.ids import from_text
from sms.templates import Template
from store.objects import PREFIXES

_BOTH = FieldError(
    "/template_id",
    "template.beside_text",
    "`text` and `template_id` are both given; leave out one of them.",
)
_VALUES_BESIDE_TEXT = FieldError(
    "/template_id",
    "template.beside_text",
    "`variables` are given beside `text`; they belong to a template. Leave `variables` out, or "
    "give its `template_id` in place of `text`.",
)
_NO_TEMPLATE = FieldError(
    "/template_id",
    "field.missing",
    "`template_id` is missing; `variables` belong to one. Give it, or leave `variables` out.",
)
_UNKNOWN = FieldError(
    "/template_id",
    "template.unknown",
    "`template_id` is not the id of a template (tpl_…) that the tenant may use; correct it, or ask "
    "the operator for the ids.",
)


def is_templated(entry: SendRequest) -> bool:
    """Whether there is anything here to resolve."""
    return entry.template_id is not UNSET or entry.variables is not UNSET


def resolve(
    entry: SendRequest, tenant: int, snapshot: Snapshot, errors: list[FieldError]
) -> SendRequest:
    """The same send with the text and the class of its template; what is wrong is added."""
    plain = structs.replace(entry, template_id=UNSET, variables=UNSET)
    template = find(entry, tenant, snapshot, errors)
    if template is None:
        return plain
    if plain.message_class is UNSET:
        plain.message_class = template.message_class
    if plain.on_uncertain is UNSET and template.on_uncertain is not None:
        plain.on_uncertain = template.on_uncertain
    found = template.fill({} if entry.variables is UNSET else entry.variables)
    if isinstance(found, str):
        plain.text = found
        return plain
    errors += [
        FieldError(
            child("/variables", fault.name),
            f"template.variable_{fault.code}",
            f"`variables`: {fault.detail}.",
        )
        for fault in found
    ]
    return plain


def find(
    entry: SendRequest, tenant: int, snapshot: Snapshot, errors: list[FieldError]
) -> Template | None:
    """The template that is named, with what is wrong with naming it here added."""
    if entry.template_id is UNSET:
        errors.append(_NO_TEMPLATE if entry.text is UNSET else _VALUES_BESIDE_TEXT)
        return None
    if entry.text is not UNSET:
        errors.append(_BOTH)
        return None
    number = from_text(PREFIXES["template"], entry.template_id)
    template = None if number is None else snapshot.templates.get(number)
    if template is None or template.tenant not in (0, tenant):
        errors.append(_UNKNOWN)
        return None
    if entry.message_class not in (UNSET, template.message_class):
        detail = (
            f"`class` is {entry.message_class} and the template's is {template.message_class}; "
            "leave `class` out, or use a template of that class."
        )
        errors.append(FieldError("/class", "template.class", detail))
    return template


def moved(errors: list[FieldError]) -> list[FieldError]:
    """What was found wrong with a text that a template made: its values are what can be changed."""
    return [
        error._replace(pointer="/variables") if error.pointer == "/text" else error
        for error in errors
    ]
