"""A second node of one gateway: its own supervisor, workers and data directory.

    with GatewayProcess() as first, SecondNode(first) as second:
        ...

PostgreSQL, Valkey, master key, configuration and carriers are the first node's.
"""

import json
from collections.abc import Iterable, Mapping

import yaml

from gateway.sandbox_config import CARRIERS, Carrier
from store.embedded import endpoints_of, run_directory
from tests.support.gateway_process import PATIENCE_S, GatewayProcess, Json, eventually

LEASE_S, RENEW_S = 5, 1  # of both nodes: a lease counts until 2 s before its end


class SecondNode(GatewayProcess):
    """`smsgw up` beside another one; end it before the first."""

    command_line = ("up",)

    def __init__(self, first: GatewayProcess, *, workers: int = 1, role: str = "all") -> None:
        super().__init__(workers=workers, lease_s=str(LEASE_S), lease_renew_s=str(RENEW_S))
        self._first = first
        given = endpoints_of(run_directory(first.data_dir))
        self.env |= {
            "SMSGW_DATABASE_URL": given.database_url,
            "SMSGW_REDIS_URL": given.redis_url,
            "SMSGW_MASTER_KEY_FILE": str(first.data_dir / "master.key"),
            "SMSGW_NODE": "second",
            "SMSGW_ROLE": role,
            "SMSGW_WEBHOOK_ALLOW": first.sandbox["sink"]["url"].removesuffix("/hooks"),
        }

    @property
    def dsn(self) -> str:
        """The first node's database."""
        return self._first.dsn

    def wait_configured(self, timeout_s: float = PATIENCE_S) -> None:
        """Until it works by the first node's configuration: `apply` waits for that node alone."""
        wanted = self._first.metric("config_version")
        eventually(
            lambda: self.metric("config_version") >= wanted, "the second node's version", timeout_s
        )

    def _read_sandbox(self) -> None:
        self.sandbox = self._first.sandbox
        self.carriers = self._first.carriers
        self.sink = self._first.sink
        self._headers = self._first._headers


def narrow(gateway: GatewayProcess, *, sessions: int, window: int, names: Iterable[str]) -> str:
    """Configuration that gives some of the sandbox's carriers few sessions and a small window."""
    ports = {told["name"]: told["port"] for told in gateway.sandbox["carriers"]}
    known = {carrier.name: carrier for carrier in CARRIERS}
    password = str(gateway.data_dir / "sandbox" / "carrier.pw")
    channels: list[Json] = [
        {
            "name": name,
            "protocol": known[name].protocol,
            **known[name].address(ports[name]),
            **_settings(known[name], gateway),
            f"{known[name].secret}_file": password,
            "sessions": sessions,
            "window": window,
            "segments_per_second": 1_000_000,
            "classes": ["otp", "transactional", "marketing"],
        }
        for name in names
    ]
    return json.dumps({"channels": channels})  # JSON is YAML too


def _settings(carrier: Carrier, gateway: GatewayProcess) -> Json:
    """A carrier's own settings; files by their whole path."""
    settings: Json = yaml.safe_load(carrier.settings)
    return {
        name: str(gateway.data_dir / value) if name.endswith("_file") else value
        for name, value in settings.items()
    }


def route(*names: str) -> str:
    """Configuration that sends everything over these carriers, in that order."""
    everything: Mapping[str, object] = {"tenant": "*", "class": "*", "carrier": "*"}
    return json.dumps({"routes": [{**everything, "channels": list(names)}]})
