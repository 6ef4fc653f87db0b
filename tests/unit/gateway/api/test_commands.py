"""Cancel, pause and resume over HTTP: who may, what is answered, and that no 200 lies."""

from __future__ import annotations

import pytest

from gateway.commands import BatchLook
from gateway.withdraw import Verdict
from receipts.state import Path
from sms.errors import OutcomeUnknown, StoreUnavailable
from sms.ids import to_text
from sms.model import EventRow, State
from store.commands import BatchState
from tests.support.fake_flow import NOW, OTHER, SHOP, FakeFlow
from tests.unit.gateway.api.test_openapi import call as call_both

BODY = b'{"to": "+8613800138000", "text": "hi"}'
FIRST = 77


@pytest.fixture
def flow():
    return FakeFlow()


async def call(flow, method, path, content=None, key="both"):
    if key != "both":
        flow.keys = {**flow.keys, "both": flow.keys[key]}
    return await call_both(flow, method, path, content)


async def accept(flow):
    answer = await call(flow, "POST", "/v1/messages", BODY)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def row(flow, path, status):
    [messages] = flow.accepted
    stored = flow.reader.stored[messages[0].id]
    made = EventRow(messages[0].id, 2, 9, SHOP, int(path), status, NOW, channel=7)
    stored.rows.append(made)


def batch(tenant=SHOP, *, is_paused=False):
    counts = {State.CANCELED: 2, State.DELIVERED: 1, State.QUEUED: 0}
    return {(tenant, FIRST): BatchLook(FIRST, NOW, is_paused, counts)}


BATCH = f"/v1/batches/{to_text('bat', FIRST)}"


async def test_a_canceled_message_is_answered_as_it_stands_then(flow):
    message_id = await accept(flow)
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
    again = await call(flow, "POST", f"/v1/messages/{message_id}:cancel", b"{}")
    assert again.status_code == 200
    assert len(flow.commands.asked) == 1  # the store knew it


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (Path.SUBMITTED, State.SUBMITTED, "message.submitting"),
        (Path.UNCERTAIN, State.UNCERTAIN, "message.submitting"),
        (Path.EXPIRED, State.EXPIRED, "message.final"),
        (Path.REJECTED, State.REJECTED, "message.final"),
    ],
)
async def test_what_the_store_knows_to_be_too_late_is_refused_without_asking(
    flow, path, status, code
):
    message_id = await accept(flow)
    row(flow, path, status)
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert not flow.commands.asked


async def test_an_open_attempt_is_a_409(flow):
    message_id = await accept(flow)
    flow.commands.verdict = Verdict.BUSY
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "message.submitting")


@pytest.mark.parametrize("error", [OutcomeUnknown("x"), None])
async def test_what_nobody_can_say_is_a_503_with_retry_after(flow, error):
    """Also when the owner says it ended, and the store does not know that."""
    message_id = await accept(flow)
    flow.commands.error = error
    if error is None:

        async def cancel(tenant, message_id):
            return Verdict.ENDED

        flow.commands.cancel = cancel
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel")
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    assert answer.headers["retry-after"] == "2"


async def test_canceling_needs_the_scope_send_and_ones_own_message(flow):
    message_id = await accept(flow)
    path = f"/v1/messages/{message_id}:cancel"
    assert (await call(flow, "POST", path, key="read")).status_code == 403
    assert (await call(flow, "POST", path, key="other")).status_code == 404
    # a suspended tenant may stop its own messages; this one is another's
    assert (await call(flow, "POST", path, key="suspended")).status_code == 404
    flow = FakeFlow()
    assert (await call(flow, "POST", "/v1/messages/nonsense:cancel")).status_code == 404


async def test_only_the_named_methods_and_no_fields(flow):
    message_id = await accept(flow)
    answer = await call(flow, "GET", f"/v1/messages/{message_id}:cancel")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel", b'{"why": 1}')
    assert answer.status_code == 422
    answer = await call(flow, "POST", f"/v1/messages/{message_id}:cancel?force=1")
    assert answer.status_code == 422
    assert not flow.commands.asked


async def test_a_batch_tells_what_has_which_status(flow):
    flow.commands.batches = batch(is_paused=True)
    answer = await call(flow, "GET", BATCH)
    assert answer.json() == {
        "id": to_text("bat", FIRST),
        "created_at": "2027-01-15T08:00:00.000Z",
        "paused": True,
        "counts": {"delivered": 1, "canceled": 2},
    }


@pytest.mark.parametrize(
    ("action", "state"),
    [
        ("pause", BatchState.PAUSED),
        ("resume", BatchState.RUNNING),
        ("cancel", BatchState.CANCELED),
    ],
)
async def test_a_batch_is_switched(flow, action, state):
    flow.commands.batches = batch()
    answer = await call(flow, "POST", f"{BATCH}:{action}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["counts"] == {"delivered": 1, "canceled": 2}
    assert flow.commands.asked == [(state, SHOP, FIRST)]


async def test_a_canceled_batch_neither_pauses_nor_runs(flow):
    flow.commands.batches = batch()
    flow.commands.canceled = {FIRST}
    for action in ("pause", "resume"):
        answer = await call(flow, "POST", f"{BATCH}:{action}")
        assert (answer.status_code, answer.json()["code"]) == (409, "batch.canceled")
    assert (await call(flow, "POST", f"{BATCH}:cancel")).status_code == 200


async def test_another_tenants_batch_is_not_there(flow):
    flow.commands.batches = batch(OTHER)
    assert (await call(flow, "GET", BATCH)).status_code == 404
    for action in ("pause", "resume", "cancel"):
        assert (await call(flow, "POST", f"{BATCH}:{action}")).status_code == 404


async def test_reading_and_switching_need_their_scopes(flow):
    flow.commands.batches = batch()
    assert (await call(flow, "GET", BATCH, key="send")).status_code == 403
    assert (await call(flow, "POST", f"{BATCH}:pause", key="read")).status_code == 403
    assert not flow.commands.asked


async def test_a_batch_whose_owner_is_silent_is_a_503(flow):
    flow.commands.batches = batch()
    flow.commands.error = OutcomeUnknown("x")
    answer = await call(flow, "POST", f"{BATCH}:pause")
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome_unknown")
    flow.commands.error = StoreUnavailable("x")
    answer = await call(flow, "POST", f"{BATCH}:pause")
    assert (answer.status_code, answer.json()["code"]) == (503, "store.unavailable")


async def test_a_held_message_says_what_it_waits_for(flow):
    message_id = await accept(flow)
    [messages] = flow.accepted
    flow.commands.held = {messages[0].id}
    answer = await call(flow, "GET", f"/v1/messages/{message_id}")
    assert answer.json()["waiting"] == "held: its batch is paused"
