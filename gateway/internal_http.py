"""What a worker tells its supervisor: one small document on a Unix socket.

`GET /snapshot` answers JSON `{"metrics", "ready", "serving", "missing", "counts"}`.
`GET /spread?connections=N` ends N of its connections after their next answer (204): the worker
holds more than its share. `GET /reload` has it look at its certificate's files at once (204). The
socket stands in the node's run directory (0700), so only this
node's own user reaches it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

REQUEST_TIMEOUT_S = 5.0
MAX_REQUEST_LINES = 64


_DONE = b"HTTP/1.0 204 No Content\r\n\r\n"
_SPREAD = re.compile(rb"/spread\?connections=([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class Internal:
    """What a worker answers with."""

    snapshot: Callable[[], Mapping[str, object]]
    spread: Callable[[int], None]
    reload: Callable[[], None]


async def serve_internal(path: Path, own: Internal) -> asyncio.Server:
    """Serve these on the socket at `path` (an old one is replaced)."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await reader.readline()
                for _ in range(MAX_REQUEST_LINES):
                    if await reader.readline() in (b"\r\n", b"\n", b""):
                        break
                writer.write(_answer(request, own))
                await writer.drain()
        except (TimeoutError, OSError, ValueError):
            return  # the supervisor asks again; a broken request says nothing
        finally:
            writer.close()

    path.unlink(missing_ok=True)  # noqa: ASYNC240 (once, at start)
    return await asyncio.start_unix_server(handle, path=path)


def _answer(request: bytes, own: Internal) -> bytes:
    words = request.split(b" ")[:2]
    asked = _SPREAD.fullmatch(words[1]) if len(words) == 2 else None
    if asked is not None:
        own.spread(int(asked[1]))
        return _DONE
    if words == [b"GET", b"/reload"]:
        own.reload()
        return _DONE
    if words != [b"GET", b"/snapshot"]:
        return b"HTTP/1.0 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    body = msgspec.json.encode(own.snapshot())
    head = (
        f"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
