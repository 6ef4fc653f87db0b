"""What a command says to the person (or script) that started it.

On a terminal: short lines and one live line at the bottom. Into a pipe: the same lines, the
live one every 10 s. With `--json`: one JSON object a line, nothing else on stdout.

rich is loaded where there is a terminal: without it a command starts a sixth faster.
"""

from __future__ import annotations

import errno
import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

PLAIN_EVERY_S = 10.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Terminal:
    """One per command; `close` leaves the terminal as it was."""

    def __init__(self, *, is_json: bool = False, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self.is_json = is_json
        self.is_live = not is_json and self._stream.isatty()
        self._live: Live | None = None
        self._console = _console(self._stream) if self.is_live else None
        self._shown_at = time.monotonic()

    def step(self, text: str) -> None:
        """Progress of long work."""
        self.say(text, "progress", text=text)

    def say(self, line: str, event: str, **fields: object) -> None:
        """`line` for a person, `{"event": …}` with the fields for a script."""
        if self.is_json:
            self._write(json.dumps({"event": event, **fields}, ensure_ascii=False))
        elif self._live is not None:
            self._live.console.print(line, markup=False, soft_wrap=True)
        else:
            self._write(line)

    def styled(self, line: str, style: str = "") -> None:
        """A line with colours (rich's words) where there are any; not for `--json`."""
        if self._console is not None:
            self._console.print(line, style=style, markup=False, emoji=False, soft_wrap=True)
        else:
            self._write(line)

    def fail(self, line: str, event: str, **fields: object) -> None:
        """What is wrong: for a person on stderr, for a script among the rest."""
        if self.is_json:
            self._write(json.dumps({"event": event, **fields}, ensure_ascii=False))
        else:
            sys.stderr.write(f"{line}\n")

    def raw(self, document: Mapping[str, object]) -> None:
        """One JSON document a line, as the gateway gave it."""
        self._write(json.dumps(document, ensure_ascii=False))

    def live(self, text: str, **fields: object) -> None:
        """Replace the live line; without a terminal it is written every 10 s (JSON: always)."""
        if self.is_json:
            self._write(json.dumps({"event": "counts", **fields}))
        elif self._console is not None:
            from rich.live import Live
            from rich.text import Text

            if self._live is None:  # auto_refresh is a thread, and this process forks
                self._live = Live(console=self._console, auto_refresh=False)
                self._live.start()
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)
        elif time.monotonic() - self._shown_at >= PLAIN_EVERY_S:
            self._shown_at = time.monotonic()
            self._write(text)

    def close(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _write(self, line: str) -> None:
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:  # the reader went away (`smsgw up | head`); the work goes on
            self._stream = sys.stderr
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise  # a file on a full disk lacks the line; what is done goes on


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, highlight=False)
