"""Where webhooks may go besides the public Internet: by the operator's word, and in a sandbox."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.settings import Settings
from webhooks.address import AllowList


def allow_list(settings: Settings) -> AllowList:
    """The operator's exceptions for webhooks; a sandbox's data directory allows loopback too."""
    ports = set(settings.sandbox_ports) | {settings.port, settings.admin_port}
    is_sandbox = settings.is_sandbox
    if not is_sandbox and settings.sandbox_file.exists():
        is_sandbox = True  # `smsgw apply` beside a running sandbox: its ports stand in that file
        ports |= _sandbox_ports(settings.sandbox_file)
    return AllowList.of(settings.webhook_allow, loopback_except=ports if is_sandbox else None)


def _sandbox_ports(path: Path) -> set[int]:
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        carriers = told["carriers"]
        urls = [told["url"], told["admin_url"], *(carrier["control_url"] for carrier in carriers)]
        ports = {int(url.rsplit(":", 1)[1].split("/", 1)[0]) for url in urls}
        return ports | {int(carrier["port"]) for carrier in carriers}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return set()
