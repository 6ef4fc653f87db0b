"""Debian's promtool and Prometheus for tests: fetched once into the environment, never installed.

with Prometheus(tools, target="127.0.0.1:8081", folder=tmp_path) as prometheus:
    prometheus.query("up")
"""

import contextlib
import fcntl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
import yaml

from tests.support.gateway_process import eventually, free_ports

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus"
_NOT_HERE = 3  # of get.sh: no apt, or no such package
_FETCH_S = 240


def tools() -> Path:
    """The folder of `promtool` and `prometheus`; skips the test where they cannot be had."""
    folder = Path(sys.prefix) / "prometheus"
    with (Path(sys.prefix) / "prometheus.lock").open("w") as lock:  # make runs tests side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        got = subprocess.run(
            ["sh", str(RULES / "get.sh"), str(folder)],
            check=False,
            capture_output=True,
            text=True,
            timeout=_FETCH_S,
        )
    if got.returncode == _NOT_HERE:
        pytest.skip(f"no promtool: {got.stderr.strip()}")
    assert got.returncode == 0, got.stderr
    return folder


def promtool(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run it; what it says and how it ended."""
    return subprocess.run(
        [str(tools() / "promtool"), *words],
        check=False,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Prometheus:
    """A real one with our own configuration and rules, in a hurry: it looks every second."""

    def __init__(self, *, target: str, folder: Path) -> None:
        self._folder = folder
        [port] = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        told = yaml.safe_load((RULES / "prometheus.yml").read_text("utf-8"))
        told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        told["rule_files"] = [str(RULES / name) for name in told["rule_files"]]
        told["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(told))
        self._command = [
            str(tools() / "prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)
        try:
            eventually(self._is_ready, f"Prometheus, see {self._folder}/prometheus.log")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
            self._process.kill()
            self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "prometheus.log").read_text()
        with contextlib.suppress(httpx.HTTPError):
            return self._client.get("/-/ready").status_code == 200
        return False

    def get(self, path: str, **params: str) -> Any:
        """`data` of an answer of its API; a refusal is a failed assertion with its words."""
        answer = self._client.get(f"/api/v1{path}", params=params)
        assert answer.status_code == 200, f"{params}: {answer.text}"
        return answer.json()["data"]

    def query(self, expression: str) -> list[Any]:
        """What an expression yields now."""
        found: list[Any] = self.get("/query", query=expression)["result"]
        return found

    def settled_rules(self) -> list[Any]:
        """Every rule, evaluated after two scrapes of everything at least."""
        began = time.time()

        def rules() -> list[Any]:
            all_of_them = [r for g in self.get("/rules")["groups"] for r in g["rules"]]
            done = [r for r in all_of_them if r["health"] != "unknown"]
            is_done = len(done) == len(all_of_them) and time.time() - began > 4
            return all_of_them if is_done else []

        return eventually(rules, "every rule is evaluated")
