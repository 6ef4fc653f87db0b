from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from standardwebhooks import Webhook

from loadtest.sink import Behaviour, Secrets, Sink, change
from loadtest.tally import Tally, is_signed
from webhooks.sign import headers, secret_text

KEY = b"k" * 32


def event(number: int, sequence: int = 3, kind: str = "message.delivered") -> dict[str, Any]:
    data = {"id": f"msg_{number:016x}", "sequence": sequence, "to": "+86138****8000"}
    return {"id": f"evt_{number:016x}", "type": kind, "timestamp": "x", "data": data}


def batch(*events: dict[str, Any]) -> bytes:
    return json.dumps({"type": "batch", "timestamp": "x", "data": events}).encode()


def signed(body: bytes, key: bytes = KEY, at: float | None = None) -> dict[bytes, bytes]:
    stamp = int(time.time() if at is None else at)
    return {n.encode(): v.encode() for n, v in headers((key,), "whb_1", stamp, body)}


def test_repeats_finals_and_types_are_told_apart():
    tally = Tally(is_keeping=True)
    tally.take(batch(event(1), event(2, 2, "message.submitted"), event(2)))
    tally.take(batch(event(1), event(3, 2, "message.submitted")))
    tally.take(json.dumps(event(1)).encode())
    assert tally.counts() | {"requests": 0} == {
        "requests": 0,
        "events": 6,
        "distinct_events": 4,
        "distinct_messages_final": 2,
        "duplicates": 2,
        "bad_signatures": 0,
        "bad_bodies": 0,
        "failed": 0,
        "by_type": {"message.delivered": 4, "message.submitted": 2},
    }
    assert tally.events_of("msg_0000000000000002") == [event(2, 2, "message.submitted"), event(2)]
    assert tally.events_of("msg_0000000000000009") == []


def test_a_batch_is_known_in_any_spelling():
    tally = Tally(is_keeping=False)
    tally.take(b'{"data": [%b], "type": "batch"}' % json.dumps(event(1)).encode())
    assert tally.events == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"type":"batch"}', b'{"type":"x"}', b"\xff"])
def test_what_is_no_event_is_refused(body: bytes):
    with pytest.raises((msgspec.DecodeError, ValueError)):
        Tally(is_keeping=False).take(body)


def test_signatures_of_the_independent_library_are_accepted_and_others_are_not():
    body = batch(event(1))
    now = time.time()
    good = signed(body)
    assert is_signed((KEY,), good, body, now)
    assert is_signed((b"o" * 32, KEY), good, body, now)
    assert Webhook(KEY).verify(body, {n.decode(): v.decode() for n, v in good.items()})
    assert not is_signed((b"o" * 32,), good, body, now)
    assert not is_signed((KEY,), good, body + b" ", now)
    assert not is_signed((KEY,), good, body, now + 301)
    assert not is_signed((KEY,), {}, body, now)
    assert not is_signed((), good, body, now)
    both = good[b"webhook-signature"] + b" v1,AAAA"
    assert is_signed((KEY,), good | {b"webhook-signature": both}, body, now)


def test_a_secret_that_comes_late_or_changes_is_read(tmp_path):
    file = tmp_path / "secret"
    sink = Sink(Secrets(file), None)
    body = batch(event(1))
    assert sink.status_for(signed(body), body) == 401
    file.write_text(secret_text(KEY))
    assert sink.status_for(signed(body), body) == 200
    file.write_text(secret_text(b"n" * 32) + "\n" + secret_text(b"m" * 32) + "\n\n")
    assert sink.status_for(signed(body, b"m" * 32), body) == 200
    assert sink.status_for(signed(body), body) == 401
    assert (sink.tally.events, sink.tally.bad_signatures) == (2, 2)


def test_the_record_holds_one_event_per_line_and_only_what_was_taken(tmp_path):
    (tmp_path / "secret").write_text(secret_text(KEY))
    secrets = Secrets(tmp_path / "secret")
    secrets.refresh()
    sink = Sink(secrets, tmp_path / "deep" / "sink.jsonl")
    body = batch(event(1), event(2))
    assert sink.status_for(signed(body), body) == 200
    sink.behaviour = Behaviour(fail_share=1.0, status=503)
    assert sink.status_for(signed(body), body) == 503
    sink.behaviour = Behaviour()
    assert sink.status_for(signed(b"{}"), b"{}") == 400
    lines = (tmp_path / "deep" / "sink.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [event(1), event(2)]
    assert sink.events_of("msg_0000000000000002") == [event(2)]
    assert (sink.tally.failed, sink.tally.bad_bodies, sink.tally.events) == (1, 1, 2)
    sink.close()


def test_behaviour_left_out_stays_and_nonsense_changes_nothing():
    now = change(Behaviour(), {"fail_share": 0.5})
    assert isinstance(now, Behaviour)
    now = change(now, {"delay_ms": 20})
    assert now == Behaviour(fail_share=0.5, delay_ms=20)
    nonsense: tuple[object, ...] = (
        [],
        {"fail_share": 2},
        {"status": 99},
        {"hang": 1},
        {"speed": 1},
        {"delay_ms": 1.5},
    )
    for raw in nonsense:
        assert isinstance(change(Behaviour(), raw), str)
