"""TLS in memory: our end against Python's other end, octet by octet where it matters."""

import ssl
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from adapters.tls import Tls, TlsSettings, make_context
from sms.errors import ConfigError, ConnectFailed
from tests.support.certificates import Authority, pem_of

AUTHORITY = Authority()
SERVER = AUTHORITY.issue("smsc.example")
GOOD = TlsSettings("smsc.example", AUTHORITY.cert)


class Server:
    """The carrier's end, in memory."""

    def __init__(self, folder, made=SERVER, *, client_ca=""):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(made.file(folder / "server.pem"))
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=client_ca)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.is_open = False
        self.heard = b""

    def receive(self, data):
        self.incoming.write(data)
        try:
            if not self.is_open:
                self.tls.do_handshake()
                self.is_open = True
            self.heard += self.tls.read(1 << 16)
        except ssl.SSLError:  # it wants more, or says in an alert what it does not like
            pass
        return self.outgoing.read()


def ours(settings=GOOD):
    return Tls(make_context(settings), settings.server_name)


def shake(client, server, size=1 << 16):
    """Carry octets to and fro until both are quiet, `size` at a time; what was said to us."""
    said, to_server = b"", client.start()
    while to_server:
        answer = b""
        for start in range(0, len(to_server), size):
            answer += server.receive(to_server[start : start + size])
        for start in range(0, len(answer), size):
            said += client.receive(answer[start : start + size])
        to_server = client.to_send()
    return said


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_both_ends_understand_each_other_however_the_octets_are_cut(tmp_path, size):
    client, server = ours(), Server(tmp_path)
    shake(client, server, size)
    assert client.is_open
    server.receive(client.seal(b"bind" * 10_000))
    server.receive(b"")
    server.receive(b"")
    assert server.heard == b"bind" * 10_000
    server.tls.write(b"answer" * 10_000)
    answer = server.outgoing.read()
    plain = b"".join(client.receive(answer[at : at + 999]) for at in range(0, len(answer), 999))
    assert plain == b"answer" * 10_000


def test_the_good_bye_of_either_end_is_heard(tmp_path):
    client, server = ours(), Server(tmp_path)
    shake(client, server)
    server.tls.write(b"last words")
    with pytest.raises(ssl.SSLWantReadError):
        server.tls.unwrap()
    assert client.receive(server.outgoing.read()) == b"last words"
    assert client.is_over
    server.incoming.write(client.good_bye())
    server.tls.unwrap()  # raises unless the other end has said it too


@pytest.mark.parametrize(
    ("settings", "made", "words"),
    [
        (replace(GOOD, server_name="other.example"), SERVER, ("other.example", "tls_server_name")),
        (replace(GOOD, server_name="127.0.0.1"), SERVER, ("127.0.0.1", "tls_server_name")),
        (replace(GOOD, ca=Authority("another").cert), SERVER, ("tls_ca_file",)),
        (replace(GOOD, ca=Authority().cert), SERVER, ("tls_ca_file",)),
        (replace(GOOD, ca=""), SERVER, ("tls_ca_file",)),
        (GOOD, AUTHORITY.issue("smsc.example", days=-1), ("expired", "ask the carrier")),
    ],
    ids=[
        "another name",
        "an address",
        "another authority",
        "its namesake",
        "the system's",
        "expired",
    ],
)
def test_a_certificate_that_is_not_right_ends_it_with_the_setting(tmp_path, settings, made, words):
    client = ours(settings)
    with pytest.raises(ConnectFailed) as caught:
        shake(client, Server(tmp_path, made))
    assert not client.is_open
    assert all(word in str(caught.value) for word in words)
    assert client.to_send()  # the alert that tells the carrier


def test_the_carriers_own_certificate_will_do_as_authority(tmp_path):
    client = ours(replace(GOOD, ca=SERVER.cert))
    shake(client, Server(tmp_path))
    assert client.is_open


def test_a_certificate_of_ours_is_shown_where_the_carrier_asks(tmp_path):
    mine = Authority("ours").issue("esme01")
    clients = Authority("of clients")
    asked = clients.issue("esme01")
    server = Server(tmp_path, client_ca=clients.cert)
    shake(ours(replace(GOOD, cert=asked.cert, key=asked.key)), server)
    assert server.is_open
    for settings in (GOOD, replace(GOOD, cert=mine.cert, key=mine.key)):
        with pytest.raises(ConnectFailed, match="tls_cert_file"):
            shake(ours(settings), Server(tmp_path, client_ca=clients.cert))


def test_a_port_without_tls_is_told_from_one_that_broke_off():
    client = ours()
    client.start()
    with pytest.raises(ConnectFailed, match="tls to false"):
        client.receive(bytes.fromhex("00000010800000000000000200000000"))  # SMPP's generic_nack


def test_garbage_after_the_handshake_is_an_end_in_words(tmp_path):
    client, server = ours(), Server(tmp_path)
    shake(client, server)
    with pytest.raises(ConnectFailed, match="TLS"):
        client.receive(bytes(100))


KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (
            replace(GOOD, ca="-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"),
            "tls_ca",
        ),
        (replace(GOOD, cert="-----BEGIN nothing", key=SERVER.key), "tls_cert"),
        (replace(GOOD, cert=SERVER.cert, key=pem_of(KEY)), "tls_cert"),
        (replace(GOOD, cert=SERVER.cert, key=pem_of(KEY, b"secret")), "tls_cert"),
    ],
    ids=["no authority", "no certificate", "another's key", "a key with a password"],
)
def test_what_cannot_be_read_names_its_setting_and_shows_nothing(settings, name):
    with pytest.raises(ConfigError, match=f"^{name}: ") as caught:
        make_context(settings)
    assert "BEGIN" not in str(caught.value)


def test_the_key_is_not_shown():
    assert SERVER.key not in repr(replace(GOOD, cert=SERVER.cert, key=SERVER.key))
