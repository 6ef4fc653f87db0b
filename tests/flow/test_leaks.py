"""Nothing personal leaks: a whole run, then a search through everything that it emitted.

What is looked for, in which forms: `tests/support/leaks.py`. What is done, and what may stand
where: `tests/support/leak_run.py`.

SMSGW_TEST_SEED=N rolls other numbers, texts and codes.
"""

import contextlib
import os
import time
from collections.abc import Iterator

import pytest

from tests.support.gateway_process import eventually
from tests.support.leak_run import ALLOWED, PLACES, WORDS, LeakRun
from tests.support.leak_world import WRONG
from tests.support.leaks import Find, find, told

pytestmark = pytest.mark.flow


class Emitted:
    """What is left of the run."""

    def __init__(self, run: LeakRun, code: int) -> None:
        self.run = run
        self.exit_code = code
        self.files = run.collect()
        self.needles = run.personal.needles()
        self.finds = find(self.needles, self.files, run.folder, allowed=ALLOWED)

    def of(self, *tops: str) -> list[Find]:
        """What was found in the sinks below these names."""
        return [one for one in self.finds if one.sink.split("/")[0] in tops]


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emitted]:
    seed = int(os.environ.get("SMSGW_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"SMSGW_TEST_SEED={seed}")
    folder = tmp_path_factory.mktemp("leaks")
    with LeakRun(folder, seed) as run:
        began = time.monotonic()
        for step in (
            run.configure, run.good_sends, run.nonsense, run.refused, run.lists, run.from_phones,
            run.failures, run.commands, run.deaths, run.look_at_the_living,
        ):  # fmt: skip
            step()
            print(f"{step.__name__}: {time.monotonic() - began:.1f} s")
        with contextlib.suppress(AssertionError):  # told by `test_it_was_a_whole_run`
            eventually(lambda: has_heard_all(run), "all was said and heard", 30)
        code = run.stop()
        print(f"stop: {time.monotonic() - began:.1f} s")
        found = Emitted(run, code)
        print(f"search: {time.monotonic() - began:.1f} s")
        yield found


def has_heard_all(run: LeakRun) -> bool:
    """Whether those who talk nonsense said all of it, and both endpoints got both kinds."""
    wanted = {"message.delivered", "inbound.received"}
    return (
        run.bad_carrier.said == {name for name, _ in WRONG}
        and run.bad_vendor.said == {name for name, _ in run.bad_vendor.answers}
        and all(wanted <= {x["type"] for x in run.hooks.events(p)} for p in ("/masked", "/full"))
    )


SINKS = {
    "logs": ("log", "stdout"),
    "error answers": ("answers",),
    "metrics": ("metrics",),
    "commands": ("commands",),
    "webhooks": ("webhooks",),
    "processes": ("processes",),
    "the core of Valkey": ("valkey.core", "valkey.keys", "valkey"),
    "the database": ("postgres", "tables", "activity"),
}


@pytest.mark.parametrize("name", SINKS)
def test_nothing_personal_is_in(emitted, name):
    finds = emitted.of(*SINKS[name])
    assert not finds, told(finds)
    looked_at = [sink for sink in emitted.files if sink.split("/")[0] in SINKS[name]]
    assert sum(emitted.files[sink].stat().st_size for sink in looked_at) > 0


def test_it_was_a_whole_run(emitted):
    """What was not done has left nothing to find: each step did what it is for."""
    run = emitted.run
    assert run.fired[: len(PLACES)] == [place for _, place, _ in PLACES]
    assert set(WORDS) < {*run.fired}
    assert run.bad_carrier.said == {name for name, _ in WRONG}
    assert run.bad_vendor.said == {name for name, _ in run.bad_vendor.answers}
    logs = "".join(
        path.read_text("utf-8", "replace")
        for sink, path in emitted.files.items()
        if sink.startswith("log/")
    )
    for said in (
        '"event": "exception ignored"',
        "Task exception was never retrieved",
        '"event": "uncaught exception"',
        "RuntimeWarning",
        "cannot handle ",
        "statement failed",
        "Fatal Python error: Segmentation fault",
        '"how": "SIGKILL"',
        "139****",
        '"level": "debug"',
    ):
        assert said in logs, said
    assert logs.count("cannot digest") >= len(PLACES)
    assert 'violates unique constraint "held_pkey"' in logs
    assert '"route": "/v1/suppressions"' in logs
    for path, kind in (("/masked", "+86139****"), ("/full", f"+86139{run.personal.block}")):
        events = run.hooks.events(path)
        assert {"message.delivered", "inbound.received"} <= {one["type"] for one in events}
        assert any(kind in str(one["data"]) for one in events)


def test_nor_in_anything_else_it_left_behind(emitted):
    named = {top for tops in SINKS.values() for top in tops}
    finds = [one for one in emitted.finds if one.sink.split("/")[0] not in named]
    assert not finds, told(finds)
