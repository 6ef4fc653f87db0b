"""Infobip's own client with its REST layer replaced, without the 500 models that we do not use.

Importing the package imports all of them (3.5 s of CPU); their modules alone are found through a
package whose own `__init__` is not run.
"""

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


def _bare(name: str) -> None:
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    assert spec is not None
    module = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations or [])
    sys.modules[name] = module


for _name in ("infobip_api_client", "infobip_api_client.models", "infobip_api_client.api"):
    _bare(_name)

from infobip_api_client.api.sms_api import SmsApi  # noqa: E402 – behind the bare packages
from infobip_api_client.api_client import ApiClient  # noqa: E402
from infobip_api_client.configuration import Configuration  # noqa: E402
from infobip_api_client.models.sms_delivery_result import SmsDeliveryResult  # noqa: E402
from infobip_api_client.models.sms_destination import SmsDestination  # noqa: E402
from infobip_api_client.models.sms_inbound_message_result import (  # noqa: E402
    SmsInboundMessageResult,
)
from infobip_api_client.models.sms_logs_response import SmsLogsResponse  # noqa: E402
from infobip_api_client.models.sms_message import SmsMessage  # noqa: E402
from infobip_api_client.models.sms_message_content import SmsMessageContent  # noqa: E402
from infobip_api_client.models.sms_message_delivery_reporting import (  # noqa: E402
    SmsMessageDeliveryReporting,
)
from infobip_api_client.models.sms_message_options import SmsMessageOptions  # noqa: E402
from infobip_api_client.models.sms_request import SmsRequest  # noqa: E402
from infobip_api_client.models.sms_response import SmsResponse  # noqa: E402
from infobip_api_client.models.sms_text_content import SmsTextContent  # noqa: E402
from infobip_api_client.models.sms_webhooks import SmsWebhooks  # noqa: E402
from infobip_api_client.models.validity_period import ValidityPeriod  # noqa: E402
from infobip_api_client.models.validity_period_time_unit import (  # noqa: E402
    ValidityPeriodTimeUnit,
)

__all__ = [
    "SmsDeliveryResult",
    "SmsDestination",
    "SmsInboundMessageResult",
    "SmsLogsResponse",
    "SmsMessage",
    "SmsMessageContent",
    "SmsMessageDeliveryReporting",
    "SmsMessageOptions",
    "SmsRequest",
    "SmsResponse",
    "SmsTextContent",
    "SmsWebhooks",
    "ValidityPeriod",
    "ValidityPeriodTimeUnit",
    "client_of",
    "said_by",
]

Said = tuple[str, str, dict[str, str], Any]  # method, url, headers, body


class _Left(Exception):
    """The request that would have left."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.said = said


class _Rest:
    def request(
        self, method: str, url: str, headers: Any = None, body: Any = None, **_: Any
    ) -> None:
        raise _Left((method, url, headers, body))


def client_of(base: str, key: str) -> SmsApi:
    """The client of one account; it reaches nobody."""
    client = ApiClient(Configuration(host=base, api_key=key))
    client.rest_client = _Rest()  # type: ignore[assignment]  # it stands in for the real one
    return SmsApi(client)


def said_by(ask: Callable[[], object]) -> Said:
    """What the client would have sent."""
    with pytest.raises(_Left) as left:
        ask()
    return left.value.said
