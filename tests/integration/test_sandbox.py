"""`smsgw up --sandbox` as a newcomer meets it: started, sent, looked at, started again."""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.support.gateway_process import SANDBOX_PORTS, free_ports, keep_ports

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
ESME_RINVPASWD = 0x0E
# a number of each network, and its primary
NETWORKS = [
    ("+8613800138000", "mobile-a"),
    ("+8618600138000", "unicom-a"),
    ("+8618900138000", "telecom-a"),
    ("+12025550100", "global-a"),
]


@pytest.fixture
def env():
    top = Path(tempfile.mkdtemp(prefix="smsgw-test-"))
    keep_ports(top / "data", free_ports(SANDBOX_PORTS))
    kept = {k: v for k, v in os.environ.items() if not k.startswith("SMSGW_")}
    yield {
        **kept,
        "SMSGW_DATA_DIR": str(top / "data"),
        "SMSGW_PORT": "0",
        "SMSGW_ADMIN_PORT": "0",
        "SMSGW_RELIABILITY__DRAIN_BEFORE_S": "0",
    }
    shutil.rmtree(top, ignore_errors=True)


def smsgw(env, *words):
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        check=False,
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )


def bind_status(port, password):
    """command_status of the answer to a bind_transceiver, in bytes by hand (SMPP 3.4, 4.1.5)."""
    body = b"global\0" + password.encode() + b"\0\0" + b"\x34\0\0\0"
    with socket.create_connection(("127.0.0.1", port), 5) as peer:
        peer.sendall(struct.pack(">IIII", 16 + len(body), 9, 0, 1) + body)
        answer = peer.recv(16, socket.MSG_WAITALL)
    _, command, status, _ = struct.unpack(">IIII", answer)
    assert command == 0x80000009
    return status


class Sandbox:
    """A running `smsgw up --sandbox --json`."""

    def __init__(self, env):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "up", "--sandbox", "--json"],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.told = {}

    def __enter__(self):
        assert self.process.stdout is not None
        while "ready" not in self.told:
            line = self.process.stdout.readline()
            assert line, f"ended early: {self.told}"
            event = json.loads(line)
            self.told[event["event"]] = event
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate(timeout=45)


def test_a_text_travels_and_a_second_start_finds_everything(env):
    data_dir = Path(env["SMSGW_DATA_DIR"])
    file = data_dir / "sandbox.json"
    with Sandbox(env) as sandbox:
        described = json.loads(file.read_text())
        assert file.stat().st_mode & 0o777 == 0o600
        assert described.keys() == {
            "url",
            "admin_url",
            "api_key",
            "admin_key",
            "carriers",
            "sink",
        }
        assert [(c["name"], c["protocol"]) for c in described["carriers"]] == [
            ("mobile-a", "cmpp3"),
            ("unicom-a", "sgip"),
            ("telecom-a", "smgp"),
            ("vendor-a", "infobip"),
            ("global-a", "smpp"),
        ]
        assert described["api_key"] in sandbox.told["sandbox"]["curl"]
        port = described["carriers"][-1]["port"]
        assert bind_status(port, "wrong") == ESME_RINVPASWD
        assert bind_status(port, (data_dir / "sandbox" / "carrier.pw").read_text().strip()) == 0
        for to, channel in NETWORKS:
            sent = smsgw(env, "send", to, "你好", "--class", "otp")
            assert sent.returncode == 0, sent.stderr
            message_id = sent.stdout.splitlines()[0]
            end = time.monotonic() + 60
            while True:
                shown = smsgw(env, "status", message_id, "--timeline")
                if "delivered" in shown.stdout.splitlines()[0]:
                    break
                assert time.monotonic() < end, shown.stdout
            assert "receipt" in shown.stdout
            assert f"on {channel}" in shown.stdout
        applied = smsgw(env, "apply", str(data_dir / "sandbox.yaml"))
        assert applied.returncode == 0
        assert "unchanged" in applied.stdout
        assert smsgw(env, "check").returncode == 0
        assert "is in force" in applied.stdout
        migrated = smsgw(env, "migrate").stdout
        assert "nothing to do" in migrated
        assert str(data_dir) in migrated
    assert sandbox.process.returncode == 0
    with Sandbox(env) as again:
        second = json.loads(file.read_text())
        assert second["api_key"] == described["api_key"]
        assert second["carriers"] == described["carriers"]
        assert smsgw(env, "status", message_id).stdout.startswith(f"{message_id}  delivered")
    assert again.process.returncode == 0


def test_refusals_say_field_and_remedy(env):
    with Sandbox(env):
        for text in ("", "x" * 5000):
            refused = smsgw(env, "send", "+8613800138000", text)
            assert refused.returncode == 1
            assert "text" in refused.stdout
            assert "what to do:" in refused.stdout
        refused = smsgw(env, "send", "12", "hello")
        assert "recipient.invalid" in refused.stdout
        wrong = Path(env["SMSGW_DATA_DIR"]) / "wrong.yaml"
        wrong.write_text("tenants:\n  - name: shop\n    signatur: [x]\n")
        applied = smsgw(env, "apply", str(wrong))
        assert applied.returncode == 2
        assert "wrong.yaml:" in applied.stderr
