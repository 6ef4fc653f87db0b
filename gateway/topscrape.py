"""Asking nodes for their `/metrics`: where they are, and what to do when one does not answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.top import Answer
from gateway.toprates import read
from sms.errors import ConfigError

TIMEOUT_S = 2.0
LONGEST_ANSWER = 32 * 1024 * 1024  # bytes
_PATH = "/metrics"
_HTTP_OK = 200


def nodes(settings: Settings, urls: Sequence[str]) -> list[str]:
    """Which nodes to ask: those named, else this machine's; raises ConfigError.

    SMSGW_ADMIN_PORT wins over the sandbox's file, which may be of an earlier run.
    """
    if urls:
        return list(dict.fromkeys(_checked(url) for url in urls))
    if not settings.admin_port or "admin_port" not in settings.model_fields_set:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return [_checked(json.loads(settings.sandbox_file.read_text("utf-8"))["admin_url"])]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104 - what is listened on
    host = f"[{host}]" if ":" in host else host
    scheme = "https" if settings.admin_tls else "http"
    return [f"{scheme}://{host}:{settings.admin_port}"]


def _checked(url: str) -> str:
    """Without a slash at the end."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        is_plain = not (parts.username or parts.password or parts.query or parts.fragment)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and is_plain:
            return url.rstrip("/").removesuffix(_PATH)
    raise ConfigError("--url: write a node's admin port as http://HOST:PORT")


def ask(urls: Sequence[str]) -> list[Answer]:
    """One look at each node, at the same time; takes a few seconds at most."""
    with ThreadPoolExecutor(max_workers=len(urls)) as pool:
        return list(pool.map(_ask, urls))


def _ask(url: str) -> Answer:
    try:
        status, text = _get(url)
        at = time.monotonic()
        if status != _HTTP_OK:
            return Answer(url, at, fault=_refusal(status))
        return Answer(url, at, read(text))
    except ssl.SSLCertVerificationError as error:
        fault = f"{error.verify_message}: set SSL_CERT_FILE to the CA that signed its certificate"
    except ConnectionRefusedError:
        fault = "nothing listens there: start the node, or name its admin port with --url"
    except TimeoutError:
        fault = f"no answer within {TIMEOUT_S:g} s: look at the node's log and at the network"
    except OSError as error:
        fault = f"{error.strerror or type(error).__name__}: check the address and the network"
    except (http.client.HTTPException, ValueError):
        fault = "what answers is no gateway's /metrics: name a node's admin port with --url"
    return Answer(url, time.monotonic(), fault=fault)


def _refusal(status: int) -> str:
    return f"answers {status} to /metrics: name the admin port (SMSGW_ADMIN_PORT) with --url"


def _get(url: str) -> tuple[int, str]:
    """Straight to the address, past any proxy of the environment."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("GET", parts.path + _PATH)
        answer = connection.getresponse()
        return answer.status, answer.read(LONGEST_ANSWER).decode("utf-8")
