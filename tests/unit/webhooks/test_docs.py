"""The receiver of docs/webhooks.md, run as it stands there."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from webhooks import sign

PAGE = Path(__file__).parents[3] / "docs" / "webhooks.md"
EVENT = {"id": "evt_1", "type": "message.delivered", "data": {"id": "msg_1", "sequence": 3}}


@pytest.fixture
def receiver() -> dict[str, Any]:
    code = PAGE.read_text("utf-8").split("```python\n", 1)[1].split("```", 1)[0]
    found: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), found)
    return found


def test_it_takes_what_either_secret_signed_and_nothing_else(receiver):
    (old, old_key), (new, new_key), (other, _) = (sign.new_secret() for _ in range(3))
    body = json.dumps(EVENT).encode()
    both = dict(sign.headers([new_key, old_key], "evt_1", int(time.time()), body))
    for secrets in ([old], [new], [old, new], [other, new]):
        assert receiver["verify"](secrets, both, body) == EVENT
    late = dict(sign.headers([new_key], "evt_1", int(time.time()) - 301, body))
    wrong = ([other], both, body), ([new], both, body + b" "), ([new], late, body)
    for secrets, headers, sent in wrong:
        with pytest.raises(ValueError, match=r"right|old"):
            receiver["verify"](secrets, headers, sent)


def test_order_is_rebuilt_by_sequence(receiver):
    sequences = [2, 5, 3, 5]
    events = [{**EVENT, "data": {"id": "msg_1", "sequence": one}} for one in sequences]
    came = receiver["events_of"]({"type": "batch", "data": events})
    assert [one["data"]["sequence"] for one in came if receiver["is_news"](one)] == [2, 5]
    assert receiver["events_of"](EVENT) == [EVENT]
