"""A YAML file made to break the reader is complained about, never a traceback."""

from __future__ import annotations

import pytest

from gateway.yamlfile import MAX_BYTES, read_yaml


@pytest.mark.parametrize(
    "value",
    [
        '!!int ""',
        "!!int x",
        "!!bool x",
        "!!timestamp x",
        '!!timestamp ""',
        '!!float ""',
        "!!binary é",
        "2026-99-99",
        "!!python/object:os.system x",
        "1:30",
        "-1:30",
        "190:20:30.15",
    ],
)
def test_a_value_that_is_not_what_its_tag_says(value):
    _, _, complaints = read_yaml(f"tenants:\n  - {{limits: {{segments_per_second: {value}}}}}\n")
    [complaint] = complaints
    assert complaint.line == 2
    assert complaint.pointer == "/tenants/0/limits/segments_per_second"
    assert "quotes" in complaint.detail


def test_a_quoted_time_is_text():
    assert read_yaml('at: "1:30"')[0] == {"at": "1:30"}


@pytest.mark.parametrize(
    "text", ["\n" + "[" * 50_000, "\n" + "{a: " * 50_000, "\n" + "- " * 50_000]
)
def test_a_deep_file(text):
    value, _, [complaint] = read_yaml(text)
    assert value is None
    assert complaint.line == 2
    assert "write it plainly" in complaint.detail


def test_a_large_file():
    value, _, [complaint] = read_yaml("a: " + "x" * MAX_BYTES)
    assert value is None
    assert "divide it" in complaint.detail
    assert read_yaml("a: 1".ljust(MAX_BYTES))[0] == {"a": 1}
