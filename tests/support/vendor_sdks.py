"""The vendors' own SDKs as callers of a simulated vendor: one text to one number each.

Each returns the ids that the SDK's own models read from the answer, and raises `Refused` with the
vendor's code as the SDK tells it. Imports are inside: some take seconds.
"""

from collections.abc import Callable, Mapping

ACCOUNT = "AC" + "0" * 32
SECRET = "0123456789abcdef" * 2
TEXT = "您的验证码是 482915"

Send = Callable[[int, str, str], str]  # (port, number with its +, secret) -> id


class Refused(Exception):
    """What the SDK raised or read, as the vendor's code."""


def aliyun(port: int, number: str, secret: str) -> str:
    from alibabacloud_dysmsapi20170525 import models
    from alibabacloud_dysmsapi20170525.client import Client
    from alibabacloud_tea_openapi.models import Config
    from darabonba.exceptions import DaraException

    config = Config(
        access_key_id=ACCOUNT,
        access_key_secret=secret,
        endpoint=f"127.0.0.1:{port}",
        protocol="HTTP",
    )
    asked = models.SendSmsRequest(
        phone_numbers=number.removeprefix("+86"),
        sign_name="沙箱",
        template_code="SMS_1",
        template_param='{"code": "482915"}',
        out_id="msg_1-1",
    )
    try:
        told = Client(config).send_sms(asked).body
    except DaraException as error:
        raise Refused(error.code) from None
    if told.code != "OK":
        raise Refused(told.code)
    return str(told.biz_id)


def tencent(port: int, number: str, secret: str) -> str:
    from tencentcloud.common.credential import Credential
    from tencentcloud.common.exception import TencentCloudSDKException
    from tencentcloud.common.profile.client_profile import ClientProfile
    from tencentcloud.common.profile.http_profile import HttpProfile
    from tencentcloud.sms.v20210111 import models
    from tencentcloud.sms.v20210111.sms_client import SmsClient

    profile = ClientProfile(httpProfile=HttpProfile("http", f"127.0.0.1:{port}"))
    asked = models.SendSmsRequest()
    asked.PhoneNumberSet = [number]
    asked.SmsSdkAppId, asked.SignName, asked.TemplateId = "1400006666", "沙箱", "449739"
    asked.TemplateParamSet, asked.SessionContext = ["482915"], "msg_1-1"
    client = SmsClient(Credential(ACCOUNT, secret), "ap-guangzhou", profile)
    try:
        [told] = client.SendSms(asked).SendStatusSet
    except TencentCloudSDKException as error:
        raise Refused(error.get_code()) from None
    if told.Code != "Ok":
        raise Refused(told.Code)
    assert (told.PhoneNumber, told.SessionContext) == (number, "msg_1-1")
    return str(told.SerialNo)


def huawei(port: int, number: str, secret: str) -> str:
    from huaweicloudsdkcore.exceptions.exceptions import ServiceResponseException
    from huaweicloudsdksmsapi import v1
    from huaweicloudsdksmsapi.v1.smsapi_credentials import SMSApiCredentials

    credentials = SMSApiCredentials(ACCOUNT, secret)
    client = (
        v1.SMSApiClient.new_builder()
        .with_credentials(credentials)
        .with_endpoint(f"http://127.0.0.1:{port}")
        .build()
    )
    asked = v1.BatchSendSmsRequest(
        body=v1.BatchSendSmsRequestBody(
            _from="8823040504797",
            to=number,
            template_id="8ff55eac1d0b478ab3c06c3c6a492300",
            template_paras='["482915"]',
            signature="沙箱",
            extend="msg_1-1",
        )
    )
    try:
        told = client.batch_send_sms(asked)
    except ServiceResponseException as error:
        raise Refused(error.error_code) from None
    if told.code != "000000":
        raise Refused(told.code)
    [one] = told.result
    assert (one.origin_to, one.status) == (number, "000000")
    return str(one.sms_msg_id)


def twilio(port: int, number: str, secret: str) -> str:
    from twilio.base.exceptions import TwilioRestException
    from twilio.http.http_client import TwilioHttpClient
    from twilio.rest import Client

    class Here(TwilioHttpClient):  # type: ignore[misc]  # it has no types
        def request(self, method: str, url: str, **more: object) -> object:
            here = url.replace("https://api.twilio.com", f"http://127.0.0.1:{port}")
            return super().request(method, here, **more)

    client = Client(ACCOUNT, secret, http_client=Here(pool_connections=False))
    try:
        told = client.messages.create(to=number, from_="+15017122661", body=TEXT)
        assert client.messages(str(told.sid)).fetch().to == number
    except TwilioRestException as error:
        raise Refused(str(error.code)) from None
    assert (told.to, told.status) == (number, "queued")
    return str(told.sid)


def infobip(port: int, number: str, secret: str) -> str:
    import infobip_api_client as sdk
    from infobip_api_client.exceptions import ApiException

    config = sdk.Configuration(
        host=f"http://127.0.0.1:{port}",
        api_key={"APIKeyHeader": secret},
        api_key_prefix={"APIKeyHeader": "App"},
    )
    message = sdk.SmsMessage(
        sender="10690001",
        destinations=[sdk.SmsDestination(to=number.removeprefix("+"))],
        content=sdk.SmsMessageContent(sdk.SmsTextContent(text=TEXT)),
        webhooks=sdk.SmsWebhooks(callbackData="msg_1-1"),
    )
    try:
        with sdk.ApiClient(config) as client:
            told = sdk.SmsApi(client).send_sms_messages(sdk.SmsRequest(messages=[message]))
    except ApiException as error:
        raise Refused(str(error.status)) from None
    [one] = told.messages or []
    assert one.status is not None
    assert one.destination == number.removeprefix("+")
    if one.status.group_name != "PENDING":
        raise Refused(str(one.status.name))
    return str(one.message_id)


def generic(port: int, number: str, secret: str) -> str:
    """Nobody's SDK: httpx with basic authentication."""
    import httpx

    body = {"messages": [{"to": number, "text": TEXT, "ref": "msg_1-1"}]}
    url = f"http://127.0.0.1:{port}/sms"
    told = httpx.post(url, json=body, auth=(ACCOUNT, secret), trust_env=False).json()
    if told["code"]:
        raise Refused(str(told["code"]))
    [one] = told["messages"]
    if one["code"]:
        raise Refused(str(one["code"]))
    return str(one["id"])


SENDS: Mapping[str, Send] = {
    "aliyun": aliyun,
    "http": generic,
    "huawei": huawei,
    "infobip": infobip,
    "tencent": tencent,
    "twilio": twilio,
}
