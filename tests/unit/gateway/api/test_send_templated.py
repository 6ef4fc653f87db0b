"""What is told of `template_id` and `variables` on the send routes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sms.model import MessageClass
from sms.templates import Template
from tests.support.fake_flow import FakeFlow
from tests.unit.gateway.api.test_send import ONE, post, problem

CODE = Template(1, "code", 0, MessageClass.OTP, "{code} is valid for {minutes} minutes")


@pytest.fixture
def flow():
    return FakeFlow()


def of_code(flow):
    """What is told of a template's values: (pointer, code) each."""
    flow.snapshot = replace(flow.snapshot, templates={1: CODE})

    async def told(variables):
        sent = {"to": ONE["to"], "template_id": "tpl_0000000000000001", "variables": variables}
        answer = await post(flow, sent)
        assert answer.status_code == 422
        return [(one["pointer"], one["code"]) for one in problem(answer)["errors"]]

    return told


async def test_each_value_of_the_wrong_type_is_told_once_and_is_not_missing(flow):
    told = of_code(flow)
    wrong = [("/variables/code", "field.type"), ("/variables/minutes", "field.type")]
    assert await told({"code": 4711, "minutes": 5}) == wrong
    assert await told({"code": "4711", "minutes": 5}) == wrong[1:]
    missing = ("/variables/minutes", "template.variable_missing")
    assert await told({"code": 4711}) == [wrong[0], missing]
    assert await told(["4711"]) == [("/variables", "field.type")]
    assert await told(None) == [("/variables", "field.null")]


async def test_variables_beside_a_text_are_not_called_a_template_id(flow):
    answer = await post(flow, {**ONE, "variables": {"code": "1"}})
    [error] = problem(answer)["errors"]
    assert (error["pointer"], error["code"]) == ("/template_id", "template.beside_text")
    assert "`variables` are given beside `text`" in error["detail"]
