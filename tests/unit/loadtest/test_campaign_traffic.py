"""The campaign's tenant: it asks again with the same key until it knows, and compares answers."""

from datetime import datetime
from random import Random

import aiohttp
import pytest

from loadtest.campaign import traffic
from loadtest.campaign.traffic import CANCELED, NOT_CANCELED, UNKNOWN, Rates, Text, Traffic


class Said:
    def __init__(self, status, told, **headers):
        self.status, self.told, self.headers = status, told, headers

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None

    async def json(self, **_):
        return self.told


class Client:
    """Answers in turn; an exception is raised instead."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def post(self, path, *, json, headers):
        self.asked.append((path, json, headers))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def took(message_id, *, is_replay=False):
    headers = {"Idempotent-Replayed": "true"} if is_replay else {}
    return Said(202, {"id": f"msg_{message_id:016x}"}, **headers)


def refused(status, code):
    return Said(status, {"code": code})


@pytest.fixture
def sender(monkeypatch):
    monkeypatch.setattr(traffic, "PAUSE_S", 0.0)
    monkeypatch.setattr(traffic, "AGAIN_SHARE", 0.0)
    return Traffic("http://gateway", Random(1), Rates())


def text(key="request-1"):
    return Text(10_000_001, "otp", 1, 1.0, key=key)


LOST = aiohttp.ServerDisconnectedError()
UNKNOWN_503 = refused(503, "outcome_unknown")
FOR_NOW = (refused(503, "store.unavailable"), refused(409, "idempotency.in_progress"))


async def test_what_nobody_knows_is_asked_again_with_the_same_key_and_body(sender):
    client = Client(LOST, UNKNOWN_503, *FOR_NOW, took(7, is_replay=True))
    one = text()
    await sender._send(client, [one], is_batch=False)
    assert (one.message_id, one.refusal, one.tries, one.is_replayed) == (7, "", 4, True)
    assert len(client.asked) == 5
    assert all(asked == client.asked[0] for asked in client.asked)
    assert client.asked[0][2] == {"Idempotency-Key": '"request-1"'}


async def test_without_a_key_nothing_is_sent_twice(sender):
    client = Client(LOST)
    one = text(key="")
    await sender._send(client, [one], is_batch=False)
    assert (one.refusal, client.asked[0][2]) == (UNKNOWN, {})


@pytest.mark.parametrize("answers", [FOR_NOW[:1], (LOST, refused(422, "idempotency.mismatch"))])
async def test_a_refusal_that_says_something_of_the_request_ends_it(sender, answers):
    client = Client(*answers)
    one = text()
    await sender._send(client, [one], is_batch=False)
    assert one.is_refused
    assert client.answers == []


async def test_when_the_time_is_over_nobody_knows(sender, monkeypatch):
    monkeypatch.setattr(traffic, "RETRY_S", -1.0)
    one = text()
    await sender._send(Client(LOST), [one], is_batch=False)
    assert (one.refusal, one.is_refused) == (UNKNOWN, False)


@pytest.mark.parametrize(
    ("again", "other"), [(took(7), 0), (took(8), 8), (refused(503, "shed.overloaded"), 0)]
)
async def test_the_answer_to_the_same_request_must_be_the_same(sender, monkeypatch, again, other):
    monkeypatch.setattr(traffic, "AGAIN_SHARE", 1.0)
    one = text()
    await sender._send(Client(took(7), again), [one], is_batch=False)
    assert (one.message_id, one.other_id) == (7, other)


async def test_a_batch_must_have_the_same_ids_entry_by_entry(sender, monkeypatch):
    monkeypatch.setattr(traffic, "AGAIN_SHARE", 1.0)
    texts = [text(), text()]

    def batch(*ids):
        accepted = [{"index": n, "id": f"msg_{i:016x}"} for n, i in enumerate(ids)]
        return Said(202, {"id": "bat_0000000000000007", "accepted": accepted, "rejected": []})

    await sender._send(Client(batch(7, 8), batch(7, 9)), texts, is_batch=True)
    assert [one.message_id for one in texts] == [7, 8]
    assert [one.other_id for one in texts] == [0, 9]


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ((Said(200, {}),), CANCELED),
        ((LOST, UNKNOWN_503, Said(200, {})), CANCELED),
        ((UNKNOWN_503, refused(409, "message.submitting")), NOT_CANCELED),
    ],
)
async def test_what_is_unwanted_is_canceled_until_somebody_knows(sender, answers, end):
    client = Client(took(7), *answers)
    one = text()
    one.is_unwanted = True
    await sender._send(client, [one], is_batch=False)
    assert (one.cancel, client.answers) == (end, [])
    assert {path for path, _, _ in client.asked[1:]} == {"/v1/messages/msg_0000000000000007:cancel"}


async def test_when_the_time_for_a_cancel_is_over_nobody_knows(sender, monkeypatch):
    monkeypatch.setattr(traffic, "RETRY_S", -1.0)
    one = text()
    one.is_unwanted = True
    await sender._send(Client(took(7), LOST), [one], is_batch=False)
    assert one.cancel == UNKNOWN


async def test_what_was_not_accepted_is_not_canceled(sender):
    client = Client(refused(422, "field.invalid"))
    one = text()
    one.is_unwanted = True
    await sender._send(client, [one], is_batch=False)
    assert (one.cancel, len(client.asked)) == ("", 1)


def test_some_texts_are_scheduled_and_some_of_all_are_unwanted():
    several = Traffic("http://gateway", Random(1), Rates())
    made = [several._text() for _ in range(5000)]
    later = [one for one in made if one.send_at]
    assert 300 < len(later) < 550
    assert all(0.4 < one.send_at - one.sent_at < 3.1 for one in later)
    assert 0.4 < sum(one.is_unwanted for one in later) / len(later) < 0.6
    assert 30 < sum(one.is_unwanted for one in made if not one.send_at) < 150
    told = later[0].body()["send_at"]
    assert datetime.fromisoformat(told).timestamp() == pytest.approx(later[0].send_at, abs=1e-6)
    assert "send_at" not in next(one for one in made if not one.send_at).body()
