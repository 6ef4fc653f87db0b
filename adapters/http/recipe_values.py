"""What the places of a recipe's templates stand for.

of a message    {number} {number_plus} {number_national} {text} {sender} {reference} …
of a request    {unix} {unix_ms} {utc} {nonce} {callback_url} {inbound_url}
of the account  {account} {username} and the secrets {password} {api_key} {api_secret}
                {auth_token}
of a question   {carrier_id} {sent_unix} {sent_utc} {sent_day}
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from adapters.http.recipe_template import json_text
from adapters.http.vendor import Asked, reference_of, text_of
from sms import ids
from sms.model import Submit

HIDDEN: Final = "***"  # a secret as a rehearsal shows it
ACCOUNT: Final = ("account", "username")
SECRETS: Final = ("password", "api_key", "api_secret", "auth_token")
ALL_SECRETS: Final = (*SECRETS, "callback_secret")  # the last is every HTTP channel's
ACCOUNT_PLACES: Final = frozenset((*ACCOUNT, *ALL_SECRETS))
REQUEST: Final = frozenset({"unix", "unix_ms", "utc", "nonce", "callback_url", "inbound_url"})


def _national(submit: Submit) -> str:
    """The number without its calling code."""
    return submit.number.removeprefix(str(submit.message.country))


def _variables(submit: Submit) -> str:
    return json_text(dict(submit.filled.values) if submit.filled else {})


def _variables_list(submit: Submit) -> str:
    return json_text([value for _, value in submit.filled.values] if submit.filled else [])


_OF_MESSAGE: Final[Mapping[str, Callable[[Submit], str]]] = {
    "number": lambda submit: submit.number,
    "number_plus": lambda submit: "+" + submit.number,
    "number_national": _national,
    "country": lambda submit: str(submit.message.country),
    "text": text_of,
    "sender": lambda submit: submit.sender,
    "reference": reference_of,
    "message_id": lambda submit: ids.to_text("msg", submit.message.id),
    "encoding": lambda submit: submit.encoding.value,
    "validity_s": lambda submit: str(int(submit.validity_s)),
    "validity_min": lambda submit: str(max(1, int(submit.validity_s) // 60)),
    "segments": lambda submit: str(submit.message.segments),
    "template_code": lambda submit: submit.filled.code if submit.filled else "",
    "variables": _variables,
    "variables_list": _variables_list,
}
MESSAGE: Final = frozenset(_OF_MESSAGE)
# Places that are JSON already: alone in a member of `json` they are that, not text.
STRUCTURED: Final = frozenset({"variables", "variables_list"})
# What is different in every message: outside of `each` it would let no two share a request.
UNIQUE: Final = frozenset({"reference", "message_id"})
_QUESTION: Final = ("carrier_id", "sent_unix", "sent_utc", "sent_day")
# Without text: it may be forgotten when the question is asked.
QUESTION: Final = frozenset(
    {"number", "number_plus", "number_national", "country", "reference", "message_id", *_QUESTION}
)


class Account:
    """The values that are the same in every request: login and secrets."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.values = {name: str(raw.get(name, "")) for name in ACCOUNT_PLACES}
        self.given = frozenset(name for name in ACCOUNT_PLACES if name in raw)

    def hidden(self) -> Mapping[str, str]:
        """The same with secrets as asterisks."""
        secrets = self.given.intersection(ALL_SECRETS)
        return self.values | dict.fromkeys(secrets, HIDDEN)


def utc(unix: float) -> datetime:
    """A moment, in whole seconds."""
    return datetime.fromtimestamp(int(unix), UTC)


def of_request(unix: float, nonce: str) -> dict[str, str]:
    """The values that one request has."""
    return {
        "unix": str(int(unix)),
        "unix_ms": str(int(unix * 1000)),
        "utc": f"{utc(unix):%Y-%m-%dT%H:%M:%SZ}",
        "nonce": nonce,
    }


def of_submit(
    submit: Submit, names: Collection[str], encoding_words: Mapping[str, str]
) -> dict[str, str]:
    """The values of a message that these places want; the others are not worked out."""
    values = {name: make(submit) for name, make in _OF_MESSAGE.items() if name in names}
    if "encoding" in values:
        values["encoding"] = encoding_words.get(values["encoding"], values["encoding"])
    return values


def of_asked(asked: Asked, names: Collection[str]) -> dict[str, str]:
    """The values of a question."""
    return of_submit(asked.submit, QUESTION & frozenset(names), {}) | {
        "carrier_id": asked.carrier_id,
        # The earliest moment: providers list from one on, and "none" must be said of all of it.
        "sent_unix": str(int(asked.since_unix)),
        "sent_utc": f"{utc(asked.since_unix):%Y-%m-%dT%H:%M:%SZ}",
        "sent_day": f"{utc(asked.since_unix):%Y-%m-%d}",
    }
