"""The tenant who owns the endpoints: what it asks the API for, again while nobody answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from loadtest.campaign.node import Broken

ASK_S: Final = 60.0
PAUSE_S: Final = 0.3
FOR_NOW: Final = frozenset({429, 503})
PAGE: Final = 1000

Json = dict[str, Any]


class Tenant:
    """Calls with one key; raises Broken for what is refused, or not answered within a minute."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str) -> None:
        self._http = http
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}

    async def call(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Json:
        """The answer's JSON, and under `""` its ETag where it has one."""
        end = time.monotonic() + ASK_S
        while True:
            said = ""
            try:
                async with self._http.request(
                    method,
                    f"{self._url}/v1{path}",
                    json=body,
                    params=query,
                    headers={**self._headers, **(headers or {})},
                ) as got:
                    if got.status < 300:
                        told: Json = await got.json() if got.status != 204 else {}
                        return {**told, "": got.headers.get("etag", "")}
                    said = f"{got.status} {(await got.text())[:300]}"
                    if got.status not in FOR_NOW and not _may_be_asked_again(got.status, said):
                        raise Broken(f"{method} {path}: {said}")
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                said = repr(error)
            if time.monotonic() > end:
                raise Broken(f"{method} {path}: {said}")
            await asyncio.sleep(PAUSE_S)

    async def pages(self, path: str) -> list[Json]:
        """Everything of a list, page by page."""
        found: list[Json] = []
        query = {"limit": str(PAGE)}
        while True:
            page = await self.call("GET", path, query=query)
            found += page["data"]
            if page["next_cursor"] is None:
                return found
            query["cursor"] = page["next_cursor"]

    async def pull(self, after: str | None = None) -> tuple[list[Json], str]:
        """The events behind a cursor, a page of them, and the next cursor."""
        query = {"limit": str(PAGE), **({} if after is None else {"after": after})}
        page = await self.call("GET", "/events", query=query)
        return page["data"], page["next_cursor"]

    async def pull_all(self) -> list[Json]:
        """Every event there is."""
        found, after = await self.pull()
        events = list(found)
        while found:
            found, after = await self.pull(after)
            events += found
        return events

    async def enable(self, endpoint: str, is_enabled: bool) -> None:
        """PATCH `enabled`, by the version that stands."""
        standing = await self.call("GET", f"/webhook-endpoints/{endpoint}")
        headers = {"If-Match": standing[""]}
        path = f"/webhook-endpoints/{endpoint}"
        await self.call("PATCH", path, {"enabled": is_enabled}, headers=headers)

    async def replay(self, endpoint: str, **what: object) -> None:
        """`:replay` of what is named."""
        await self.call("POST", f"/webhook-endpoints/{endpoint}:replay", dict(what))


def _may_be_asked_again(status: int, said: str) -> bool:
    """An endpoint has one replay at a time, and none while it is disabled somewhere."""
    return status == 409 and ("replaying" in said or "webhook_endpoint.disabled" in said)
