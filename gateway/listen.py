"""Open the listening sockets of the node, with an error that a person can act on.

The supervisor opens them and passes the descriptors, so connections wait in the backlog while a
worker is replaced, and none is dropped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from sms.errors import ConfigError

BACKLOG = 2048


def open_port(
    host: str, port: int, variable: str, *, host_variable: str = "SMSGW_HOST"
) -> list[socket.socket]:
    """Listen on every address of `host`; port 0 takes a free one, the same for all.

    Raises ConfigError naming the port and `variable`, the setting that changes it, or the host
    and `host_variable`.
    """
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        detail = f"{host_variable}: {host} is no address; 127.0.0.1 or 0.0.0.0 are"
        raise ConfigError(detail) from None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        taken = sockets[0].getsockname()[1] if sockets and not port else port
        listener = socket.socket(family, kind, protocol)
        sockets.append(listener)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # 0.0.0.0 has a socket of its own
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((address[0], taken, *address[2:]))
            listener.listen(BACKLOG)
        except OSError as error:
            for opened in sockets:
                opened.close()
            detail = _explain(error, host, taken, variable, host_variable)
            raise ConfigError(detail) from None
        listener.setblocking(False)
    return sockets


def _explain(error: OSError, host: str, port: int, variable: str, host_variable: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} is taken: another program listens on {host}:{port}; "
            f"stop it, or choose another port with {variable}={port + 1000 if port < 60000 else 0}"
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} may not be opened by this user; choose one with {variable}=8080"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host_variable}: {host} is no address of this machine; 127.0.0.1 or 0.0.0.0 are"
    return f"port {port} cannot be opened ({os.strerror(error.errno or 0)}); see {variable}"


def open_unix(path: Path) -> socket.socket:
    """Listen on a Unix socket of mode 0600; a stale one is replaced (the caller holds the lock)."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener
