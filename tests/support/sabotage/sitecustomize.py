"""Loaded by every Python process of a run that has this folder on its PYTHONPATH: makes it fail.

    <SABOTAGE folder>/arm-NAME     {"who": "worker", "place": "module:Class.method" or a word,
                                    "error": "ValueError", "message": "…"}   written beside, renamed
    <SABOTAGE folder>/fired-NAME   the pid of the process that took it and failed

The word's failures are those that no handler of ours is around: a task nobody awaits, a thread, a
`__del__`, a warning, a library's own log line, a crash with faulthandler on. A place is a function
that raises at its next call, with what it was called with in its message. Only tests have this.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

FOLDER = os.environ.get("SABOTAGE_FOLDER", "")
LOOK_S = 0.02


def who():
    words = sys.orig_argv
    if words[-2:] == ["gateway", "worker"]:
        return "worker"
    return "supervisor" if "up" in words else "other"


def error_of(told, more=""):
    kind = {
        "ValueError": ValueError,
        "KeyError": KeyError,
        "RuntimeError": RuntimeError,
        "OSError": OSError,
    }.get(told["error"])
    made = kind(told["message"] + more) if kind else RuntimeError(told["message"] + more)
    made.add_note(told["message"])
    return made


def fail_in_place(folder, name, told):
    module_name, _, path = told["place"].partition(":")
    holder: Any = importlib.import_module(module_name)
    *between, last = path.split(".")
    for step in between:
        holder = getattr(holder, step)
    real = holder.__dict__[last] if isinstance(holder, type) else getattr(holder, last)

    def broken(*args, **kwargs):
        local_number, local_text = told["message"], repr((args, kwargs))
        if not took(folder, name):
            return real(*args, **kwargs)
        try:
            raise KeyError(local_number)
        except KeyError as first:
            raise error_of(told, f" with {local_text}") from first

    setattr(holder, last, broken)
    while (folder / f"arm-{name}").exists():
        time.sleep(LOOK_S)
    time.sleep(0.2)
    setattr(holder, last, real)


def took(folder, name):
    """Whether this process is the one that fails: the first to take the order."""
    mine = folder / f"fired-{name}"
    try:
        os.rename(folder / f"arm-{name}", mine)
    except FileNotFoundError:
        return False
    mine.write_text(str(os.getpid()))
    return True


async def task(told):
    text_in_a_frame = told["message"]
    raise error_of(told, repr(text_in_a_frame))


class Dying:
    def __init__(self, told):
        self.told = told

    def __repr__(self):
        return f"Dying({self.told['message']})"

    def __del__(self):
        raise error_of(self.told)


def forgotten_task(told):
    loop = LOOPS[-1]
    loop.call_soon_threadsafe(lambda: TASKS.append(loop.create_task(task(told))))
    time.sleep(0.3)
    loop.call_soon_threadsafe(TASKS.clear)  # collected: "Task exception was never retrieved"


def callback(told):
    def fail(argument):
        raise error_of(told, argument)

    LOOPS[-1].call_soon_threadsafe(fail, told["message"])


def thread(told):
    threading.Thread(target=lambda: (_ for _ in ()).throw(error_of(told))).start()


def unraisable(told):
    Dying(told)


def warning(told):
    warnings.warn(told["message"], RuntimeWarning, stacklevel=1)
    warnings.simplefilter("always")
    warnings.warn(told["message"], ResourceWarning, stacklevel=1)


def library(told):
    for name in ("asyncio", "aiohttp.client", "some.library", "asyncpg", "redis"):
        for level in (logging.DEBUG, logging.WARNING):
            logging.getLogger(name).log(level, "cannot handle %r: %s", told["message"], "x")
    logging.getLogger("some.library").error("wrong arguments %d", told["message"])


def own(told):
    """Our own lines, as careless as they can be."""
    from telemetry.logs import get_logger

    log = get_logger("gateway.careless")
    message, number = told["message"], told["number"]
    log.error("failed", text=message, number=number, error=number, numbers=[int(number)])
    log.error(f"to {number}", data={"body": message, number: 1}, pdu=message.encode())  # noqa: G004
    log.error("held", what=Dying.__new__(Dying).__class__, who=HOLDER(told))


class HOLDER:
    def __init__(self, told):
        self.told = told

    def __repr__(self):
        return f"HOLDER(text={self.told['message']!r}, number={self.told['number']!r})"


def crash(told):
    import faulthandler

    text_in_a_frame = told["message"]
    faulthandler.enable()
    os.kill(os.getpid(), signal.SIGSEGV)
    return text_in_a_frame


def database(told):
    """Statements that fail with what they were given, over the worker's own driver."""
    import asyncpg

    async def fail():
        conn = await asyncpg.connect(os.environ["SMSGW_DATABASE_URL"])
        log = logging.getLogger("gateway.careless")
        try:
            for sql, values in (
                ("SELECT $1::bigint", [told["message"]]),
                ("SELECT $1::timestamptz", [told["message"]]),
                ("SELECT pg_sleep(5), $1::text", [told["message"]]),
                ("INSERT INTO numbers_of_a_test VALUES ($1), ($1)", [told["message"]]),
            ):
                await conn.execute("SET statement_timeout = 200")
                await conn.execute(
                    "CREATE TEMP TABLE IF NOT EXISTS numbers_of_a_test (n text PRIMARY KEY)"
                )
                try:
                    await conn.execute(sql, *values)
                except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError):
                    log.exception("statement failed")
        finally:
            await conn.close()

    asyncio.run_coroutine_threadsafe(fail(), LOOPS[-1]).result(10)


WORDS = {
    "forgotten_task": forgotten_task,
    "callback": callback,
    "thread": thread,
    "unraisable": unraisable,
    "warning": warning,
    "library": library,
    "own": own,
    "database": database,
    "crash": crash,
}
TASKS: list[asyncio.Task[None]] = []
LOOPS: list[asyncio.AbstractEventLoop] = []


def serve(folder, mine):
    """Look for orders as long as the process lives: what fails here is told and looked at again."""
    started: set[str] = set()
    while True:
        try:
            look(folder, mine, started)
        except Exception:  # noqa: BLE001 - one look; the next order is another one
            with (
                contextlib.suppress(OSError),
                (folder / f"trouble-{os.getpid()}").open("a") as told,
            ):
                traceback.print_exc(file=told)
        time.sleep(LOOK_S)


def look(folder, mine, started):
    for order in folder.glob("arm-*"):
        name = order.name[4:]
        try:
            told = json.loads(order.read_text())
        except (OSError, ValueError):
            continue
        if told["who"] != mine or name in started:
            continue
        if told["place"] in WORDS:
            if LOOPS and took(folder, name):
                WORDS[told["place"]](told)
        else:
            started.add(name)
            threading.Thread(target=fail_in_place, args=(folder, name, told), daemon=True).start()


def note_loops():
    """Every loop that runs in this process, the newest last; uvloop's too."""
    real = asyncio.Runner._lazy_init  # type: ignore[attr-defined]  # private, and the one place

    def noted(runner):
        real(runner)
        if runner._loop not in LOOPS:
            LOOPS.append(runner._loop)

    asyncio.Runner._lazy_init = noted  # type: ignore[attr-defined]


if FOLDER and who() != "other":
    threading.Thread(target=serve, args=(Path(FOLDER), who()), daemon=True).start()
    note_loops()
