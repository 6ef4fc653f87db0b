"""Whose signature a request bears: by the `standardwebhooks` package, not by our code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

OLD: Final = "old"
NEW: Final = "new"
BOTH: Final = "both"
NONE: Final = "none"


class Secrets:
    """The secret of one endpoint, and the next one once it was rotated."""

    def __init__(self) -> None:
        self._old: Webhook | None = None
        self._new: Webhook | None = None

    def given(self, secret: str) -> None:
        """The endpoint has this secret from now on; the one before goes on signing."""
        made = Webhook(secret)
        if self._old is None:
            self._old = made
        else:
            self._new = made

    def check(self, headers: Mapping[str, str], body: bytes) -> str:
        """OLD, NEW, BOTH or NONE."""
        is_old, is_new = (_fits(one, headers, body) for one in (self._old, self._new))
        if is_old:
            return BOTH if is_new else OLD
        return NEW if is_new else NONE


def _fits(webhook: Webhook | None, headers: Mapping[str, str], body: bytes) -> bool:
    if webhook is None:
        return False
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    except (WebhookVerificationError, ValueError):
        return False
    return True
