"""HTTPS of our own: what is spoken, and a certificate replaced while clients come and go."""

import asyncio
import contextlib
import http.client
import os
import socket
import ssl
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta

import pytest
import uvloop
from cryptography import x509

from gateway import listener
from gateway.listener import Listener
from gateway.server_tls import Files, ServerTls, make, read
from sms.errors import ConfigError
from telemetry.metrics import Metrics
from tests.support.certificates import Authority

pytestmark = pytest.mark.integration
AUTHORITY = Authority("of the gateway")
NAME = "127.0.0.1"


class Answering(asyncio.Protocol):
    """HTTP as far as these tests need it."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        for _ in range(data.count(b"\r\n\r\n")):
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


class Place:
    """The files as Kubernetes lays them: links into a directory that is swapped whole."""

    def __init__(self, folder):
        self.folder = folder
        self.files = Files(folder / "tls.crt", folder / "tls.key")
        self._made = 0
        for path in (self.files.cert, self.files.key):
            path.symlink_to(folder / "..data" / path.name)
        self.put(AUTHORITY.issue(NAME))

    def put(self, cert, key=None):
        """Swap; another's `key` makes a pair that is none."""
        self._made += 1
        there = self.folder / f"..{self._made}"
        there.mkdir()
        (there / "tls.crt").write_text(cert.cert, "ascii")
        (there / "tls.key").write_text((key or cert).key, "ascii")
        new = self.folder / "..data_tmp"
        new.symlink_to(there.name)
        os.replace(new, self.folder / "..data")
        return x509.load_pem_x509_certificate(cert.cert.encode()).serial_number


class Serving:
    """A listener with the gateway's own loop, in a thread of its own."""

    def __init__(self, tls, every_s):
        self.tls, self._every_s = tls, every_s
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def _run(self):
        self.loop = uvloop.new_event_loop()
        self.loop.run_until_complete(self._main())
        self.loop.close()

    async def _main(self):
        self._over = asyncio.Event()
        with socket.create_server((NAME, 0), backlog=512) as opened:
            opened.setblocking(False)
            self.port = opened.getsockname()[1]
            listening = Listener(opened, Answering, self.tls.context)
            looking = asyncio.create_task(self.tls.run(self._every_s))
            self._is_up.set()
            await self._over.wait()
            looking.cancel()
            listening.close()
            await listening.wait_closed()
        await self.loop.shutdown_default_executor()

    def ask(self):
        self.loop.call_soon_threadsafe(self.tls.ask)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def metrics():
    return Metrics()


@pytest.fixture
def serving(place, metrics):
    with Serving(ServerTls(place.files, metrics, settle_s=0.05), every_s=0.05) as running:
        yield running


def trusting():
    return ssl.create_default_context(cadata=AUTHORITY.cert)


def shown(port, context=None, session=None):
    """Connect: (serial of what is shown, whether the session was resumed, the session)."""
    with (
        socket.create_connection((NAME, port), timeout=10) as plain,
        (context or trusting()).wrap_socket(plain, server_hostname=NAME, session=session) as sealed,
    ):
        sealed.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert sealed.recv(4096).startswith(b"HTTP/1.1 200")
        found = x509.load_der_x509_certificate(sealed.getpeercert(binary_form=True) or b"")
        return found.serial_number, sealed.session_reused, sealed.session


def until(is_true):
    end = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.01)


def old_client(version):
    """One that knows nothing newer, of a library that would rather not."""
    context = trusting()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = version
    return context


def test_nothing_older_than_tls_1_2_is_spoken_and_nothing_weak(serving):
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        # Its answer, or that it hangs up: not our own library's refusal to try.
        with pytest.raises(OSError, match=r"ALERT_PROTOCOL_VERSION|EOF|reset"):
            shown(serving.port, old_client(version))
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = trusting()
        context.minimum_version = context.maximum_version = version
        assert shown(serving.port, context)[0]
    for weak in ("AES128-GCM-SHA256", "ECDHE+AES+SHA256:!AESGCM", "ECDHE+AES+SHA1"):
        context = trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(weak)
        with pytest.raises(ssl.SSLError):
            shown(serving.port, context)


def test_http_1_1_is_agreed_where_a_client_asks(serving):
    context = trusting()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((NAME, serving.port)) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as sealed,
    ):
        assert sealed.selected_alpn_protocol() == "http/1.1"


def test_who_connects_and_says_nothing_makes_room_for_who_speaks(serving, monkeypatch):
    monkeypatch.setattr(listener, "HANDSHAKES", 32)
    monkeypatch.setattr(listener, "_HANDSHAKE_S", 300.0)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((NAME, serving.port), timeout=60))
            for _ in range(80)
        ]
        for one in silent[:48]:
            assert one.recv(1) == b""
        assert shown(serving.port)[0]
        silent[-1].setblocking(False)
        with pytest.raises(BlockingIOError):
            silent[-1].recv(1)


def test_a_swapped_directory_is_taken_up_and_open_connections_go_on(serving, place):
    before = shown(serving.port)[0]
    kept = http.client.HTTPSConnection(NAME, serving.port, context=trusting(), timeout=10)
    kept.request("GET", "/")
    assert kept.getresponse().read() == b"ok"
    after = place.put(AUTHORITY.issue(NAME))
    until(lambda: shown(serving.port)[0] == after)
    assert before != after
    own = kept.sock
    kept.request("GET", "/")
    assert kept.getresponse().read() == b"ok"
    assert kept.sock is own
    kept.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_resumed_session_does_not_bring_the_old_certificate_back(serving, place, version):
    context = trusting()
    context.minimum_version = context.maximum_version = version
    _, _, session = shown(serving.port, context)
    _, is_resumed, session = shown(serving.port, context, session)
    assert is_resumed  # as long as nothing changes
    new = place.put(AUTHORITY.issue(NAME))
    until(lambda: shown(serving.port)[0] == new)
    serial, is_resumed, _ = shown(serving.port, context, session)
    assert (serial, is_resumed) == (new, False)


def test_no_client_notices_that_certificates_are_replaced(serving, place):
    errors, serials, count = [], set(), 0
    over = threading.Event()

    def come_and_go():
        nonlocal count
        context = trusting()
        while not over.is_set():
            try:
                serials.add(shown(serving.port, context)[0])
                count += 1
            except OSError as error:
                errors.append(error)

    crowd = [threading.Thread(target=come_and_go) for _ in range(6)]
    for client in crowd:
        client.start()
    wanted = set()
    for _ in range(8):
        new = place.put(AUTHORITY.issue(NAME))
        wanted.add(new)
        until(lambda new=new: new in serials)
        place.put(AUTHORITY.issue(NAME), AUTHORITY.issue(NAME))  # no pair
        time.sleep(0.05)
    over.set()
    for client in crowd:
        client.join()
    assert errors == []
    assert wanted <= serials
    assert count > len(wanted)


@pytest.mark.parametrize("how", ["another's key", "no certificate", "gone", "expired"])
def test_what_does_not_do_leaves_the_old_one_and_is_counted(serving, place, metrics, how):
    before = shown(serving.port)[0]
    if how == "another's key":
        place.put(AUTHORITY.issue(NAME), AUTHORITY.issue(NAME))
    elif how == "no certificate":
        place.files.cert.write_text("-----BEGIN CERTIFICATE-----\n", "ascii")
    elif how == "gone":
        place.files.key.unlink()
    else:
        place.put(AUTHORITY.issue(NAME, days=-1))
    failed = metrics.tls_reloads_total.values
    until(lambda: failed[("failed",)] >= 2)  # each look, so that an alert stays
    assert shown(serving.port)[0] == before
    assert failed[("loaded",)] == 0


def test_a_pair_that_is_half_written_is_waited_for_and_not_counted(place, metrics):
    async def main():
        tls = ServerTls(place.files, metrics, settle_s=0.3)
        new, another = AUTHORITY.issue(NAME), AUTHORITY.issue(NAME)
        place.put(new, another)
        looking = asyncio.create_task(tls.look())
        await asyncio.sleep(0.1)
        place.put(new)
        await looking
        return tls.context()

    asyncio.run(main())
    assert metrics.tls_reloads_total.values == {("loaded",): 1, ("failed",): 0}


def test_being_asked_it_looks_at_once(place, metrics):
    with Serving(ServerTls(place.files, metrics), every_s=3600) as running:
        new = place.put(AUTHORITY.issue(NAME))
        assert shown(running.port)[0] != new
        running.ask()
        until(lambda: shown(running.port)[0] == new)


def test_the_gauge_says_when_the_first_of_the_chain_ends(place, metrics):
    leaf, issuer = AUTHORITY.issue(NAME, days=30), Authority("in between").cert
    place.put(type(leaf)(leaf.cert + issuer, leaf.key))
    tls = ServerTls(place.files, metrics)
    in_a_day = datetime.now(UTC) + timedelta(days=1)
    assert abs(tls.ends() - in_a_day) < timedelta(minutes=1)
    told = metrics.certificate_expiry_timestamp_seconds.values
    assert told == {("http",): tls.ends().timestamp()}


def test_a_start_with_a_pair_that_does_not_do_names_the_settings(place):
    place.put(AUTHORITY.issue(NAME), AUTHORITY.issue(NAME))
    with pytest.raises(ConfigError, match="SMSGW_TLS_CERT_FILE and SMSGW_TLS_KEY_FILE"):
        make(read(place.files))
    place.files.key.unlink()
    with pytest.raises(ConfigError, match=r"SMSGW_TLS_KEY_FILE: .* put it there"):
        read(place.files)
