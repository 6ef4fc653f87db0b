import socket

import pytest

from gateway import listen, sandbox
from sms.errors import ConfigError

pytestmark = pytest.mark.integration


def test_ports_are_chosen_once_and_kept(tmp_path):
    file = tmp_path / "ports.json"
    first = sandbox.choose_ports(file, {8080, 8081})
    assert len(set(first.all())) == 12
    assert sandbox.choose_ports(file, {8080, 8081}) == first


def test_a_port_taken_meanwhile_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(sandbox, "PORT_WAIT_S", 0.1)
    file = tmp_path / "ports.json"
    first = sandbox.choose_ports(file, set())
    with socket.socket() as other:
        # as servers do: an earlier test's connections may still linger on the port
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", first.carrier[0]))
        other.listen()
        second = sandbox.choose_ports(file, set())
    assert second.carrier[0] not in first.all()
    assert second.carrier[1:] == first.carrier[1:]


def test_the_gateway_s_own_ports_are_left_alone(tmp_path):
    ports = sandbox.choose_ports(tmp_path / "ports.json", {sandbox.SINK_PORT})
    assert ports.sink != sandbox.SINK_PORT


def test_every_address_of_a_name_gets_the_same_free_port():
    opened = listen.open_port("localhost", 0, "SMSGW_PORT")
    try:
        assert len({listener.getsockname()[1] for listener in opened}) == 1
    finally:
        for listener in opened:
            listener.close()


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [("198.51.100.7", 0, "no address of this machine"), ("no such host", 0, "SMSGW_HOST")],
)
def test_an_address_that_is_not_ours_is_told(host, port, says):
    with pytest.raises(ConfigError, match=says):
        listen.open_port(host, port, "SMSGW_PORT")


def test_a_stale_unix_socket_is_replaced(tmp_path):
    path = tmp_path / "x.sock"
    listen.open_unix(path).close()
    listener = listen.open_unix(path)
    assert path.stat().st_mode & 0o777 == 0o600
    listener.close()
