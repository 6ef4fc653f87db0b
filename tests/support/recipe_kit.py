"""Recipes to test with: the shipped examples as a channel's settings, and small made-up ones."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from adapters.http import callbacks, recipe
from adapters.http.recipe_examples import sample
from adapters.http.vendor import Call, CallKind, Reply
from gateway import configfields
from sms.config import Channel
from sms.model import Submit

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "vendors"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.yaml"))
SECRET = "s3cret-of-sixteen-or-more"


def shipped(name: str) -> dict[str, Any]:
    """The settings of a shipped example; each of its secrets is SECRET."""
    return settings_of(copy.deepcopy(_channel(name)))


def settings_of(channel: dict[str, Any]) -> dict[str, Any]:
    """What of a channel's entry in a configuration file is its protocol's."""
    own = {key: value for key, value in channel.items() if key not in configfields.CHANNEL}
    return {
        key.removesuffix("_file"): SECRET if key.endswith("_file") else value
        for key, value in own.items()
    }


@cache
def _channel(name: str) -> dict[str, Any]:
    [channel] = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text("utf-8"))["channels"]
    return dict(channel)


def small(**parts: Any) -> dict[str, Any]:
    """A recipe of a few lines, with these parts put over it."""
    return {
        "callbacks": False,
        "api_key": SECRET,
        "send": {
            "url": "https://api.example.com/send",
            "auth": {"type": "bearer", "token": "{api_key}"},
            "json": {"to": "{number}", "text": "{text}"},
        },
        "answer": {
            "accepted": {"$.code": 0},
            "refused": {"$.code": {"not": 0}},
            "code": "$.code",
            "id": "$.id",
        },
        **parts,
    }


def wrong_of(settings: dict[str, Any]) -> list[tuple[str, str]]:
    """What is wrong, but that it says no number, no text or no key: tests try one part alone."""
    alone = ("has no place for", "is given, but no template uses it")
    return [one for one in recipe.validate(settings) if not one[1].startswith(alone)]


def vendor(settings: dict[str, Any]) -> recipe.HttpRecipe:
    """The vendor of settings that must be without fault."""
    assert wrong_of(settings) == []
    return recipe.make(Channel(7, "channel", "http", settings))


def submits(count: int = 1, text: str | None = None) -> list[Submit]:
    """Sample messages, with this text."""
    found = sample(count)
    if text is None:
        return found
    return [replace(one, payload=text.encode("utf-16-be", "surrogatepass")) for one in found]


def reply(body: bytes | str, status: int = 200, **headers: str) -> Reply:
    """An answer; headers by names with underscores."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, names, body.encode() if isinstance(body, str) else body)


def call(
    kind: CallKind = CallKind.RECEIPTS,
    *,
    body: bytes | str = b"",
    query: str = "",
    headers: dict[str, str] | None = None,
    method: str = "POST",
    unix: float = 1_767_225_600.0,
) -> Call:
    """A push."""
    path = callbacks.path_of(7, kind)
    url = f"https://sms.example.com{path}" + (f"?{query}" if query else "")
    data = body.encode() if isinstance(body, str) else body
    return Call(kind, method, url, headers or {}, data, unix)
