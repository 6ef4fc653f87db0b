"""The traffic of `make load` for locust; runs in .venv-load, by hand too:

    .venv-load/bin/locust -f loadtest/locustfile.py --host http://127.0.0.1:8080 \\
        --api-keys keys.json --shape spike

Arrivals keep a timetable: a request has a moment at which it is due, whatever became of the ones
before it, and its answer time counts from there. Else a gateway that stalls for a second would be
asked nothing during it and look fast (coordinated omission). What stays unsent at the end is
counted as failed. A user is one connection of one tenant; how many there are makes the shape.

    --record lines: [due, began, ended, tenant, first index, messages, accepted, status, id or code]
"""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, TextIO

from gevent import sleep
from locust import FastHttpUser, LoadTestShape, events, task
from locust.user.task import LOCUST_STATE_STOPPING

from loadtest.traffic import LAST, SHAPES, TENANTS, body_of, share_at, spread_users

ANSWER_TIMEOUT_S = 30.0
LOOK_S = 0.25  # how often a user that has nothing to send looks whether it is to stop


class World:
    """What all users of the process share; filled from the command line when locust is ready."""

    indexes = count()
    tenants = spread_users(1)
    dice = Random(20260101)
    offset_s = time.time() - time.perf_counter()
    options: Any = None
    keys: dict[str, str] = {}  # noqa: RUF012 - replaced as a whole, never changed
    record: TextIO | None = None

    @classmethod
    def note(cls, line: list[object]) -> None:
        """Write one line of the record, if one is kept."""
        if cls.record is not None:
            cls.record.write(json.dumps(line, separators=(",", ":")) + "\n")


@events.init_command_line_parser.add_listener
def add_options(parser: Any) -> None:  # noqa: ANN401 - locust's parser has no types here
    """The scenario's own options, beside locust's."""
    group = parser.add_argument_group("the gateway's scenario")
    group.add_argument("--api-keys", default="", help="JSON file: tenant's name to its key")
    group.add_argument("--shape", choices=sorted(SHAPES), default="steady")
    group.add_argument("--per-minute", type=float, default=100_000, help="messages at full rate")
    group.add_argument("--shape-seconds", type=float, default=300)
    group.add_argument("--most-users", type=int, default=50, help="connections at full rate")
    group.add_argument("--batch", type=int, default=50, help="messages of a batch")
    group.add_argument("--single-share", type=float, default=0.3, help="of messages sent alone")
    group.add_argument("--first-index", type=int, default=0, help="the run's first number")
    group.add_argument("--record", default="", help="file for a line per request")


@events.init.add_listener
def begin(environment: Any, **_: object) -> None:  # noqa: ANN401 - see above
    """Take over the options."""
    options = World.options = environment.parsed_options
    World.indexes = count(options.first_index)
    World.tenants = spread_users(options.most_users)
    if options.api_keys:
        World.keys = json.loads(Path(options.api_keys).read_text("utf-8"))
    if options.record:
        World.record = Path(options.record).open("w", encoding="utf-8")  # noqa: SIM115 - closed by quit


@events.quit.add_listener
def end(**_: object) -> None:
    """All users have stopped."""
    if World.record is not None:
        World.record.close()


class Client(FastHttpUser):
    """One connection of one tenant, sending single messages and batches by its timetable."""

    connection_timeout = network_timeout = ANSWER_TIMEOUT_S
    concurrency = 1

    def on_start(self) -> None:
        """Choose the tenant and a place in the timetable."""
        options = World.options
        self._tenant = next(World.tenants)
        self._headers = {
            "Authorization": f"Bearer {World.keys[TENANTS[self._tenant].name]}",
            "Content-Type": "application/json",
        }
        self._rate = options.per_minute / 60 / options.most_users  # messages a second
        share, batch = options.single_share, options.batch
        self._chance = share / (share + (1 - share) / batch)  # that a request is a single message
        mean = self._chance + (1 - self._chance) * batch
        self._due = time.perf_counter() + World.dice.random() * mean / self._rate
        self._next()

    def on_stop(self) -> None:
        """Send what was due before the end; tell what is not sent all the same."""
        ended = time.perf_counter()
        while self._due < ended and time.perf_counter() < ended + ANSWER_TIMEOUT_S:
            self._send()
        late_s = ended - self._due
        if late_s > 0:
            unsent = self._count + int(late_s * self._rate)
            World.note([self._due + World.offset_s, 0, 0, self._tenant, -1, unsent, 0, 0, "unsent"])

    def _next(self) -> None:
        self._count = 1 if World.dice.random() < self._chance else World.options.batch

    @task
    def keep_the_timetable(self) -> None:
        """Send what is due until told to stop.

        The user never waits as locust understands it: who waits may be killed, and the kill could
        arrive inside the next request, whose answer would be lost.
        """
        while self._state != LOCUST_STATE_STOPPING:
            wait_s = self._due - time.perf_counter()
            if wait_s > 0:
                sleep(min(wait_s, LOOK_S))
            else:
                self._send()

    def _send(self) -> None:
        """One request, timed from when it was due."""
        due, messages = self._due, self._count
        self._due += messages / self._rate
        self._next()
        first = next(World.indexes)
        for _ in range(messages - 1):
            next(World.indexes)
        if first + messages > LAST:
            self.environment.runner.quit()
            return
        path = "/v1/messages" if messages == 1 else "/v1/batches"
        body = body_of(first, messages)
        began = time.perf_counter()
        with self.client.post(
            path, data=body, headers=self._headers, catch_response=True
        ) as answer:
            ended = time.perf_counter()
            answer.request_meta["response_time"] = 1000 * (ended - due)
            accepted, told = _judge(answer, messages)
            if accepted == messages:
                answer.success()
            else:
                answer.failure(f"{messages - accepted} of {messages} not accepted: {told}")
        offset = World.offset_s
        World.note(
            [
                *(round(at + offset, 6) for at in (due, began, ended)),
                *(self._tenant, first, messages, accepted, answer.status_code, told),
            ]
        )


def _judge(answer: Any, messages: int) -> tuple[int, str]:  # noqa: ANN401 - locust's answer
    """(how many were accepted, the first id or the code of the refusal)."""
    try:
        told = answer.json() if answer.status_code else {}
        if answer.status_code != 202:
            return 0, str(told.get("code", "no answer"))
        if messages == 1:
            return 1, str(told["id"])
        accepted = told["accepted"]
        if told["rejected"]:
            return len(accepted), str(told["rejected"][0]["code"])
        return len(accepted), str(accepted[0]["id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return 0, f"unreadable answer: {type(error).__name__}"


class Shape(LoadTestShape):
    """The number of users over time, by `--shape`; ends the run."""

    def tick(self) -> tuple[int, float] | None:
        """(users, users a second) now."""
        options = World.options
        share = share_at(SHAPES[options.shape](options.shape_seconds), self.get_run_time())
        if share is None:
            return None
        users = max(1, round(options.most_users * share))
        return users, float(users)
