import contextlib
import io
import json
from pathlib import Path

from gateway.terminal import Terminal


def test_json_is_one_object_a_line_and_nothing_else():
    stream = io.StringIO()
    terminal = Terminal(is_json=True, stream=stream)
    terminal.step("making the database …")
    terminal.say("for persons", "ready", url="http://x")
    terminal.live("accepted 1", accepted=1)
    terminal.close()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert lines == [
        {"event": "progress", "text": "making the database …"},
        {"event": "ready", "url": "http://x"},
        {"event": "counts", "accepted": 1},
    ]


def test_into_a_pipe_the_live_line_is_rare():
    stream = io.StringIO()
    terminal = Terminal(stream=stream)
    terminal.say("hello", "x")
    terminal.live("accepted 1")
    terminal.live("accepted 2")
    assert stream.getvalue() == "hello\n"


def test_on_a_terminal_the_live_line_is_replaced_and_lines_stay():
    class Tty(io.StringIO):
        def isatty(self):
            return True

    stream = Tty()
    terminal = Terminal(stream=stream)
    terminal.live("accepted 1")
    terminal.say("[worker] ended", "ended")
    terminal.live("accepted 2")
    terminal.close()
    shown = stream.getvalue()
    assert "[worker] ended" in shown  # brackets are no markup
    assert "accepted 2" in shown


def test_a_file_on_a_full_disk_lacks_the_line_and_nothing_ends():
    full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - its close fails
    terminal = Terminal(stream=full)
    terminal.say("ready", "ready")
    terminal.say("not ready", "unready")
    with contextlib.suppress(OSError):
        full.close()
