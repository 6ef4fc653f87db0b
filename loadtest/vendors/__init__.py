"""Simulated vendors: HTTP providers as they answer, push and fail, one shape each."""

from typing import Final

NAMES: Final = ("aliyun", "http", "huawei", "infobip", "tencent", "twilio")  # of their protocols
