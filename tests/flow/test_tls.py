"""A whole gateway behind TLS: certificates replaced under load, and the signal that says so."""

import contextlib
import hashlib
import json
import os
import pty
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time

import httpx
import pytest
from cryptography import x509

from tests.support.certificates import Authority
from tests.support.gateway_process import ROOT, GatewayProcess, eventually

pytestmark = pytest.mark.flow
AUTHORITY = Authority("of the gateway")
CLIENTS = Authority("of clients")
SOON_S = 20.0  # of what happens at once, on a machine with other work


def put(folder):
    """Both files, one after the other, as a person copies them; the serial number."""
    made = AUTHORITY.issue("127.0.0.1")
    (folder / "tls.crt").write_text(made.cert, "ascii")
    (folder / "tls.key").write_text(made.key, "ascii")
    return x509.load_pem_x509_certificate(made.cert.encode()).serial_number


class TlsGateway(GatewayProcess):
    """One that serves HTTPS at both ports and looks at its files only when it is told."""

    def __init__(self, **options):
        super().__init__(**options, tls_reload_s="60")
        put(self.folder)
        (self.folder / "clients.pem").write_text(CLIENTS.cert, "ascii")
        self.context = ssl.create_default_context(cadata=AUTHORITY.cert)
        self.env |= {
            "SMSGW_TLS_CERT_FILE": str(self.folder / "tls.crt"),
            "SMSGW_TLS_KEY_FILE": str(self.folder / "tls.key"),
            "SMSGW_TLS_CLIENT_CA_FILE": str(self.folder / "clients.pem"),
            "SMSGW_ADMIN_TLS": "1",
        }
        self.url = self.url.replace("http:", "https:")
        self.admin_url = self.admin_url.replace("http:", "https:")
        self.client.close()
        self.client = self.caller()

    def caller(self):
        return httpx.Client(timeout=15, trust_env=False, verify=self.context)

    def shown(self, port):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            self.context.wrap_socket(plain, server_hostname="127.0.0.1") as sealed,
        ):
            found = x509.load_der_x509_certificate(sealed.getpeercert(binary_form=True) or b"")
            return found.serial_number

    def wait_shown(self, serial):
        """At both ports; either worker may take a connection, so many are asked."""
        ports = [self.port] * 12 + [self.admin_port]
        eventually(lambda: {self.shown(port) for port in ports} == {serial}, "it is shown", SOON_S)

    def hang_up(self):
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


@pytest.fixture(scope="module")
def gateway():
    with TlsGateway(workers=2) as running:
        yield running


def test_certificates_are_replaced_under_load_and_no_request_fails(gateway):
    over, errors, ids = threading.Event(), [], []

    def send(is_kept):
        """With one connection for all, or with a new one for each."""
        with contextlib.ExitStack() as stack:
            kept = stack.enter_context(gateway.caller())
            while not over.is_set():
                client = kept if is_kept else stack.enter_context(gateway.caller())
                try:
                    answer = client.post(
                        f"{gateway.url}/v1/messages",
                        json={"to": "+8613800138000", "text": "您的订单已发货"},
                        headers={"authorization": f"Bearer {gateway.sandbox['api_key']}"},
                    )
                    assert answer.status_code == 202, answer.text
                    ids.append(answer.json()["id"])
                except (httpx.HTTPError, AssertionError) as error:
                    errors.append(error)
                if not is_kept:
                    client.close()

    crowd = [threading.Thread(target=send, args=(number % 2 == 0,)) for number in range(4)]
    for client in crowd:
        client.start()
    pids = gateway.pids()
    for _ in range(3):
        new = put(gateway.folder)
        gateway.hang_up()
        gateway.wait_shown(new)
    over.set()
    for client in crowd:
        client.join()
    assert errors == []
    assert len(ids) > 20
    assert gateway.pids() == pids
    assert gateway.metric("tls_reloads_total", result="failed") == 0
    assert gateway.metric("tls_reloads_total", result="loaded") == 9  # two workers, admin port


def test_a_pair_that_is_none_keeps_the_old_one_and_is_told(gateway):
    before = gateway.shown(gateway.port)
    put(gateway.folder)
    (gateway.folder / "tls.key").write_text(AUTHORITY.issue("127.0.0.1").key, "ascii")
    gateway.hang_up()
    eventually(lambda: gateway.metric("tls_reloads_total", result="failed") == 3, "it is counted")
    assert gateway.shown(gateway.port) == gateway.shown(gateway.admin_port) == before
    told = (gateway.data_dir / "log" / "worker-0.log").read_text("utf-8")
    assert "certificate not taken up" in told
    assert "PRIVATE" not in told
    assert gateway.client.get(f"{gateway.admin_url}/readyz").status_code == 200


def test_a_worker_that_is_told_directly_goes_on(gateway):
    """As `systemctl kill -s HUP` tells every process of the service."""
    new = put(gateway.folder)
    pids = gateway.pids()
    for name, pid in pids.items():
        if name.startswith("worker"):
            os.kill(pid, signal.SIGHUP)
    eventually(lambda: {gateway.shown(gateway.port) for _ in range(12)} == {new}, "it is shown")
    assert gateway.pids() == pids


def test_a_tenant_s_keys_work_with_its_certificate_only(gateway):
    headers = {"authorization": f"Bearer {gateway.sandbox['admin_key']}", "if-match": "*"}
    found = gateway.client.get(f"{gateway.url}/v1/tenants", headers=headers).json()["data"]
    path = f"{gateway.url}/v1/tenants/{found[0]['id']}"
    mine, other = CLIENTS.issue("shop"), CLIENTS.issue("shop")
    der = ssl.PEM_cert_to_DER_cert(mine.cert)
    body = {"client_certificates": [hashlib.sha256(der).hexdigest().upper()]}
    assert gateway.client.patch(path, json=body, headers=headers).status_code == 200

    def asks(made=None):
        """Send and read with this certificate: what both were answered."""
        context = ssl.create_default_context(cadata=AUTHORITY.cert)
        if made is not None:
            context.load_cert_chain(made.file(gateway.folder / "client.pem"))
        key = {"authorization": f"Bearer {gateway.sandbox['api_key']}"}
        text = {"to": "+8613800138000", "text": "您的订单已发货"}
        with httpx.Client(timeout=15, trust_env=False, verify=context) as client:
            sent = client.post(f"{gateway.url}/v1/messages", json=text, headers=key)
            got = client.get(f"{gateway.url}/v1/messages", headers=key)
            return {(one.status_code, one.json().get("code", "")) for one in (sent, got)}

    refused = {(403, "auth.certificate")}
    # in force on either worker within 5 s
    eventually(lambda: all(asks() == refused for _ in range(6)), "it is asked for", SOON_S)
    assert asks(other) == refused
    for _ in range(3):
        assert asks(mine) == {(202, ""), (200, "")}
    with pytest.raises(httpx.TransportError):  # its authority is nobody's here
        asks(Authority("another").issue("shop"))
    # the platform's own keys are no tenant's
    body = {"client_certificates": []}
    assert gateway.client.patch(path, json=body, headers=headers).status_code == 200
    eventually(lambda: all(asks() == {(202, ""), (200, "")} for _ in range(6)), "no more", SOON_S)


def test_the_end_of_its_terminal_is_its_end(tmp_path):
    """A pair of terminals, of which we hold the far one: closing it hangs the near one up."""
    far, near = pty.openpty()
    data = tmp_path / "d"
    env = {k: v for k, v in os.environ.items() if not k.startswith("SMSGW_")}
    env |= {"SMSGW_DATA_DIR": str(data), "SMSGW_PORT": "0", "SMSGW_ADMIN_PORT": "0"}
    with (tmp_path / "out").open("wb") as out:
        up = subprocess.Popen(
            [sys.executable, "-c", _ON_TERMINAL, os.ttyname(near)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    os.close(near)
    try:
        told = tmp_path / "out"
        eventually(lambda: '"ready"' in told.read_text("utf-8"), "it is ready")
        up.send_signal(signal.SIGHUP)  # its terminal is there: no end
        time.sleep(1.5)
        assert up.poll() is None
        os.close(far)
        assert up.wait(30) == 0
    finally:
        up.kill()
        up.wait()
    assert json.loads(told.read_text("utf-8").splitlines()[-1])["event"] == "stopped"


# The leader of a session takes a terminal by opening it; then it is `up`, with a worker that only
# answers (tests.support.fake_up).
_ON_TERMINAL = """
import os, sys
os.open(sys.argv[1], os.O_RDWR)
os.execv(sys.executable, [sys.executable, "-m", "tests.support.fake_up", "up", "--json"])
"""
