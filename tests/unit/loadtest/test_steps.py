import pytest

from loadtest.steps import FLOORS, REST, step_of, steps_us

HTTP, ROW, LIMITS, STORE, SUBMIT, RECEIPT, WEBHOOK = FLOORS


@pytest.mark.parametrize(
    ("frames", "step"),
    [
        ("sms/numbers.py:parse_number;gateway/admit.py:admit;gateway/api/send.py:send", ROW),
        ("ratelimit/bucket.py:take;gateway/admit.py:charge;gateway/api/send.py:send", LIMITS),
        ("gateway/admit.py:charge;gateway/api/send.py:send", LIMITS),
        ("store/copying.py:build_messages;store/accept.py:accept", ROW),
        ("asyncpg/connection.py:_copy_in;store/copying.py:copy_in", STORE),
        ("gateway/ledger.py:row;gateway/reports.py:_judge;adapters/shell.py:act", RECEIPT),
        ("gateway/ledger.py:row;gateway/settle.py:settle;adapters/shell.py:act", SUBMIT),
        (
            "gateway/views.py:message_view;gateway/notices.py:notice_of_row;store/link.py:ask",
            WEBHOOK,
        ),
        ("asyncio/tasks.py:current_task;gateway/api/frame.py:read;uvicorn/x.py:run_asgi", HTTP),
        ("asyncio/runners.py:run;uvloop/__init__.py:run", REST),
    ],
)
def test_a_sample_belongs_to_the_innermost_step(frames, step):
    assert step_of(frames) == step


def test_steps_share_what_the_worker_used_and_the_store_has_postgres():
    lines = [
        "99\t50\tgateway/api/send.py:before",
        "100\t3\tgateway/api/send.py:send\n",
        "101\t1\tstore/link.py:run",
        "103\t50\tgateway/api/send.py:after",
    ]
    found = steps_us(lines, (100.0, 102.9), 40.0, 7.0)
    assert found[HTTP] == 30.0
    assert found[STORE] == 17.0
    assert sum(found.values()) == pytest.approx(47.0)


def test_without_samples_there_are_no_steps():
    assert steps_us([], (0.0, 1.0), 40.0, 7.0) == {}
