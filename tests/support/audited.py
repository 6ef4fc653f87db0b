"""What a request left in the audit log, for whoever tries every operation of the document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

READS = "it changes nothing"
MESSAGES = "a tenant's messages are kept themselves, with every step and its time"
# Operations that leave no row, and why. Whatever else writes leaves exactly one.
LEFT_OUT: Mapping[str, str] = {
    "POST /v1/messages": MESSAGES,
    "POST /v1/messages/{id}:cancel": MESSAGES,
    "POST /v1/messages/{id}:resend": "refused here; an admin's resend has its row (test_copies)",
    "POST /v1/messages:search": READS,
    "POST /v1/messages:preview": READS,
    "POST /v1/batches": MESSAGES,
    "POST /v1/batches/{id}:cancel": MESSAGES,
    "POST /v1/batches/{id}:pause": MESSAGES,
    "POST /v1/batches/{id}:resume": MESSAGES,
    "POST /v1/webhook-endpoints/{id}:test": "one signed request; its attempt is listed",
    "POST /v1/webhook-endpoints/{id}:replay": "events go out again; each attempt is listed",
}
# Two objects change, each with its row.
TWO: Mapping[str, str] = {
    "POST /v1/tenants/{id}/api-keys/{key_id}:rotate": "a key is made, the old one gets its end",
    "POST /v1/admin-keys/{key_id}:rotate": "the same",
    "POST /v1/canaries/{id}:promote": "the canary ends, its route is another",
}
FIELDS = {
    *("id", "at", "action", "actor", "address", "request_id", "object", "version"),
    *("before", "after", "secrets_changed", "hash"),
}
SECRET_NAMES = ("password", "secret", "key", "token", "signing_secret", "webhook_secret")


class Audited:
    """Looks at the newest rows before and after a request; `rows` reads them, newest first."""

    def __init__(self, rows: Callable[[], list[dict[str, Any]]]) -> None:
        self._rows = rows
        self._before = self._head()

    def _head(self) -> str:
        found = self._rows()
        return str(found[0]["id"]) if found else ""

    def complaints(
        self, label: str, body: Any, answer: Any, *, is_changed: bool = True
    ) -> list[str]:
        """What is wrong with the rows that a key's requests left since; empty when nothing is.

        `is_changed`: False where the object was so already, and has its version still.
        """
        new = [
            row
            for row in self._rows()
            if row["id"] > self._before and row["actor"]["kind"] == "key"
        ]
        wanted = 0 if label in LEFT_OUT or not is_changed else 2 if label in TWO else 1
        if len(new) != wanted:
            return [f"{label}: {len(new)} rows, not {wanted}: {[row['action'] for row in new]}"]
        return [f"{label}: {what}" for row in new for what in _wrong(row, label, body, answer)]


def _wrong(row: Mapping[str, Any], label: str, body: Any, answer: Any) -> list[str]:
    found = []
    if not row.keys() >= FIELDS - {"hash"}:
        found.append(f"lacks {FIELDS - row.keys()}")
    if not (row["actor"]["id"] and row["actor"]["name"] and row["at"] and row["request_id"]):
        found.append("does not say who or when")
    if row["address"] != "127.0.0.1":
        found.append(f"does not say from where: {row['address']}")
    if label.startswith("DELETE ") and row["before"] is None:
        found.append("does not say what was before")
    if not label.startswith("DELETE ") and row["after"] is None:
        found.append("does not say what is after")
    if label.startswith("PATCH ") and row["before"] is None:
        found.append("does not say what was before")
    text = json.dumps(row, ensure_ascii=False)
    told = [secret for source in (body, answer) for secret in _secrets(source) if secret in text]
    if told:
        found.append(f"{len(told)} secrets stand in it")
    return found


def _secrets(source: Any) -> list[str]:
    """Texts that stand under a secret's name in a request or its answer."""
    if isinstance(source, Mapping):
        own = [
            value
            for name, value in source.items()
            if name in SECRET_NAMES and isinstance(value, str) and len(value) > 3
        ]
        return own + [one for value in source.values() for one in _secrets(value)]
    if isinstance(source, list):
        return [one for value in source for one in _secrets(value)]
    return []
