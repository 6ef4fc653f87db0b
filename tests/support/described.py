"""Whether an answer is what the OpenAPI document says of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


def checker(document: Any) -> Callable[[str, object], None]:
    """check(name, value): raises ValidationError when it is not the document's schema `name`."""
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    registry: Registry[Any] = Registry().with_resource("urn:api", resource)

    def check(name: str, value: object) -> None:
        schema = {"$ref": f"urn:api#/components/schemas/{name}"}
        Draft202012Validator(schema, registry=registry).validate(value)

    return check
