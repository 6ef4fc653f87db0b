"""What both versions share, and the nodes: servers, simulated carriers, a sink, one configuration.

    folder/servers     PostgreSQL and Valkey, which outlive every node
    folder/carriers    what the carriers and the sink got
    folder/old, /new   data directories of the nodes
    folder/sandbox     secrets, with the configuration that is applied beside them

Servers and carriers are of the newer version: they stand for what is not ours.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import aiohttp

from gateway.children import Child, tail
from gateway.sandbox_config import CARRIERS, Ports, configuration
from gateway.settings import RELIABILITY_PREFIX
from loadtest.campaign.node import RELIABILITY, Broken, free_ports
from loadtest.stock_gateway import environment
from loadtest.upgrade.front import Front
from loadtest.upgrade.old import ROOT
from store import database
from store.embedded import EmbeddedServers, make_private
from store.seal import load_or_create_master_key
from store.spawn import spawn

READY_S: Final = 60.0
STOP_S: Final = 45.0
LISTEN_S: Final = 15.0
COMMAND_S: Final = 120.0
LOOK_S: Final = 0.05
LOCK_MS: Final = 100  # RELIABILITY section 9


def _field(variable: str) -> str:
    """How `gateway/settings.py` of any version declares it: one that it lacks is refused."""
    return f"    {variable.removeprefix(RELIABILITY_PREFIX).lower()}: "


class Node:
    """`smsgw up` of one version, on a data directory of its own."""

    def __init__(self, place: Place, name: str, root: Path) -> None:
        self.name = name
        self.root = root
        self.data_dir = make_private(place.folder / name)
        self.port, self.admin_port, self.smg_port = free_ports(3)
        self._place = place
        self._process: subprocess.Popen[bytes] | None = None
        self._env = place.env(self.data_dir, root) | {
            "SMSGW_NODE": name,
            "SMSGW_PORT": str(self.port),
            "SMSGW_ADMIN_PORT": str(self.admin_port),
            "SMSGW_SMG_PORT": str(self.smg_port),
        }

    @property
    def admin_url(self) -> str:
        """Health and metrics."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def is_running(self) -> bool:
        """Whether its supervisor runs."""
        return self._process is not None and self._process.poll() is None

    async def start(self) -> None:
        """Start it and wait until it is ready; raises Broken with its last words."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            self._process = spawn(
                [sys.executable, "-P", "-m", "gateway", "up"],
                death_signal=signal.SIGTERM,
                log=log,
                env=self._env,
            )
        finally:
            os.close(log)
        end = time.monotonic() + READY_S
        while not await self._is_ready():
            if not self.is_running or time.monotonic() > end:
                raise Broken(f"the {self.name} node is not ready\n{self.last_words()}")
            await asyncio.sleep(LOOK_S)

    async def _is_ready(self) -> bool:
        try:
            async with self._place.http.get(f"{self.admin_url}/readyz") as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def stop(self) -> float:
        """SIGTERM; how many seconds it took. Raises Broken when it did not end in order."""
        process, began = self._process, time.monotonic()
        if process is None:
            return 0.0
        process.terminate()
        while process.poll() is None:
            if time.monotonic() > began + STOP_S:
                raise Broken(f"SIGTERM does not end the {self.name} node\n{self.last_words()}")
            await asyncio.sleep(LOOK_S)
        self._process = None
        if process.returncode:
            words = self.last_words()
            raise Broken(f"the {self.name} node ended with code {process.returncode}\n{words}")
        return time.monotonic() - began

    async def command(self, *words: str, kill_after_s: float | None = None) -> str:
        """Run `smsgw` of this version here; what it printed. Raises Broken when it fails.

        `kill_after_s`: SIGKILL after so long, whatever it is doing; that is no failure.
        """
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "gateway", *words),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._env,
        )
        try:
            async with asyncio.timeout(kill_after_s or COMMAND_S):
                told, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            told, _ = await process.communicate()
            if kill_after_s is not None:
                return told.decode("utf-8", "replace")
        text = told.decode("utf-8", "replace")
        if process.returncode:
            raise Broken(f"smsgw {' '.join(words)} of the {self.name} version: {text}")
        return text

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def _log(self) -> Path:
        return self._place.folder / f"{self.name}.out"

    def last_words(self) -> str:
        """The ends of everything it wrote."""
        files = [self._log, *sorted((self.data_dir / "log").glob("*.log"))]
        return "\n".join(f"--- {file.name}\n" + "\n".join(tail(file, 8)) for file in files)


class Place:
    """Everything that is there before and after any node; make it with `open_place`."""

    def __init__(self, folder: Path, numbers: Mapping[str, str]) -> None:
        self.folder = make_private(folder)
        self.records = make_private(folder / "carriers")
        self.tenants = Front()  # in front of the public ports
        self.carriers = Front()  # in front of the ports that an SMG connects to
        self.http: aiohttp.ClientSession
        self.workers = 1  # of each node
        self._numbers = {**RELIABILITY, **numbers}
        self._private = make_private(folder / "sandbox")
        self._servers = EmbeddedServers(folder / "servers")
        self._children: list[Child] = []
        count = len(CARRIERS)
        ports = free_ports(2 * count + 2)
        self._ports = Ports(tuple(ports[:count]), tuple(ports[count:-2]), ports[-2], ports[-1])
        self.dsn = ""
        self._redis_url = ""

    def env(self, data_dir: Path, root: Path) -> dict[str, str]:
        """What a node or command of the version in `root` finds in its environment."""
        settings = (root / "gateway" / "settings.py").read_text("utf-8")
        env = {
            name: value
            for name, value in environment(data_dir, numbers=self._numbers).items()
            if not name.startswith(RELIABILITY_PREFIX) or _field(name) in settings
        }
        paths = [path for path in env["PYTHONPATH"].split(os.pathsep) if path != str(ROOT)]
        return env | {
            "PYTHONPATH": os.pathsep.join([str(root), *paths]),
            "SMSGW_DATABASE_URL": self.dsn,
            "SMSGW_REDIS_URL": self._redis_url,
            "SMSGW_MASTER_KEY_FILE": str(self.folder / "master.key"),
            "SMSGW_WEBHOOK_ALLOW": f"http://127.0.0.1:{self._ports.sink}",
            "SMSGW_WORKERS": str(self.workers),
        }

    # -- life ------------------------------------------------------------------------------

    async def open(self) -> None:
        """Start servers, carriers and sink; on the main thread."""
        self.http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=10.0), trust_env=False
        )
        await self.tenants.open()
        await self.carriers.open()
        found = self._servers.start()
        self.dsn, self._redis_url = found.database_url, found.redis_url
        conn = await database.connect(self.dsn)
        await conn.execute(f"ALTER SYSTEM SET deadlock_timeout = '{LOCK_MS}ms'")
        await conn.execute("ALTER SYSTEM SET log_lock_waits = on")
        await conn.execute("SELECT pg_reload_conf()")
        await conn.close()
        load_or_create_master_key(self.folder / "master.key")
        hook = base64.b64encode(secrets.token_bytes(32)).decode()
        for name, text in (
            ("carrier.pw", secrets.token_hex(4)),
            ("callback.secret", secrets.token_hex(16)),
            ("webhook.secret", f"whsec_{hook}"),
        ):
            (self._private / name).write_text(f"{text}\n", "utf-8")
        (self.folder / "config.yaml").write_text(configuration(self._ports), "utf-8")
        self._start_children()
        await self._wait_listening()

    async def close(self) -> None:
        """End all of it."""
        for child in self._children:
            child.end(0.0)
        await self.tenants.close()
        await self.carriers.close()
        self._servers.stop(is_fast=True)
        if hasattr(self, "http"):
            await self.http.close()

    def _start_children(self) -> None:
        make_private(self.folder / "log")
        env = environment(self.folder / "none")
        for carrier, port, control in zip(
            CARRIERS, self._ports.carrier, self._ports.control, strict=True
        ):
            words = ["--name", carrier.name, "--protocol", carrier.protocol, "--port", str(port)]
            words += ["--control-port", str(control)]
            words += ["--record", str(self.records / f"{carrier.name}.jsonl")]
            words += ["--system-id", carrier.login]
            words += ["--password-file", str(self._private / "carrier.pw")]
            if carrier.is_vendor():
                words += ["--callback-file", str(self._callback_file(carrier.name))]
            if carrier.protocol == "sgip":
                words += ["--call-back", f"127.0.0.1:{self.carriers.port}"]
            self._start_child(carrier.name, "loadtest.carrier", words, env)
        words = ["--port", str(self._ports.sink), "--control-port", str(self._ports.sink_control)]
        words += ["--secret-file", str(self._private / "webhook.secret")]
        words += ["--record", str(self.records / "sink.jsonl")]
        self._start_child("sink", "loadtest.sink", words, env)

    def _start_child(
        self, name: str, module: str, words: list[str], env: Mapping[str, str]
    ) -> None:
        command = [sys.executable, "-P", "-m", module, *words]
        log = self.folder / "log" / f"{name}.log"
        child = Child(name, command, env, log, death_signal=signal.SIGTERM)
        child.start(time.monotonic())
        self._children.append(child)

    async def _wait_listening(self) -> None:
        waiting = [*self._ports.carrier, *self._ports.control, self._ports.sink]
        end = time.monotonic() + LISTEN_S
        while waiting:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", waiting[0])
            except OSError:
                ended = next((child for child in self._children if child.pid is None), None)
                if ended is not None or time.monotonic() > end:
                    told = ended or self._children[0]
                    raise Broken(f"{told.name} does not start: {told.last_words()}") from None
                await asyncio.sleep(LOOK_S)
            else:
                writer.close()
                waiting.pop(0)

    # -- what it tells ---------------------------------------------------------------------

    @property
    def api_key(self) -> str:
        """The tenant's key, once the configuration is applied."""
        return self._secret("api.key")

    def _secret(self, name: str) -> str:
        return (self._private / name).read_text("utf-8").strip()

    def _callback_file(self, name: str) -> Path:
        return self._private / f"{name}.callback"

    async def behave(self, changes: Mapping[str, object]) -> None:
        """Tell every carrier how to behave."""
        for control in self._ports.control:
            async with self.http.post(
                f"http://127.0.0.1:{control}/behaviour", json=dict(changes)
            ) as answer:
                if answer.status != 200:
                    raise Broken(f"a carrier does not listen: {await answer.text()}")

    async def tell_vendors(self) -> None:
        """Write where each vendor brings its receipts: to whichever node is ready."""
        base = f"http://127.0.0.1:{self.tenants.port}/v1"
        headers = {"Authorization": f"Bearer {self._secret('admin.key')}"}
        async with self.http.get(f"{base}/channels", headers=headers) as answer:
            if answer.status != 200:
                raise Broken(f"/v1/channels: {answer.status} {await answer.text()}")
            ids = {one["name"]: one["id"] for one in (await answer.json())["data"]}
        for carrier in CARRIERS:
            if carrier.is_vendor():
                url = f"{base}/carrier-callbacks/{ids[carrier.name]}/{{kind}}"
                file = self._callback_file(carrier.name)
                file.write_text(f"{url}?secret={self._secret('callback.secret')}\n", "utf-8")
