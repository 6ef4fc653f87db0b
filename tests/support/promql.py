"""What a PromQL expression names: metrics, labels it selects by, labels it keeps.

No parser: promtool and Prometheus parse. This is for asking our own catalogue whether what is
named exists, so it takes rules written the way ours are.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from telemetry.metrics import PREFIX, Metrics

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
# What Prometheus adds itself.
TARGET_LABELS = {"instance", "job"}
_SERIES = re.compile(r"(?<![\w:])(smsgw[\w:]*|up)\b(?:\{([^}]*)\})?")
_SELECTED = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"((?:[^\"\\]|\\.)*)\"")
_KEPT = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
_STRINGS = re.compile(r"\"(?:[^\"\\]|\\.)*\"")


@dataclass(frozen=True, slots=True)
class Named:
    """One series as an expression names it."""

    name: str
    labels: frozenset[str]


def series_of(expression: str) -> list[Named]:
    """Every series that is named, recorded ones too."""
    return [
        Named(name, frozenset(label for label, _ in _SELECTED.findall(selector)))
        for name, selector in _SERIES.findall(expression)
    ]


def kept_labels(expression: str) -> set[str]:
    """What `by` and `on` name."""
    bare = _STRINGS.sub('""', expression)
    return {word.strip() for found in _KEPT.findall(bare) for word in found.split(",")} - {""}


@cache
def catalogue() -> dict[str, set[str]]:
    """The labels of everything that /metrics may show, by name."""
    found: dict[str, set[str]] = {"up": set()}
    for series in Metrics().series():
        name = PREFIX + series.name
        if series.kind != "histogram":
            found[name] = set(series.labels)
            continue
        found[f"{name}_bucket"] = {*series.labels, "le"}
        found[f"{name}_sum"] = found[f"{name}_count"] = set(series.labels)
    return found


@cache
def groups(file: str) -> list[dict[str, Any]]:
    """The groups of one of our rule files."""
    told: list[dict[str, Any]] = yaml.safe_load((RULES / file).read_text("utf-8"))["groups"]
    return told


def rules(file: str) -> list[dict[str, Any]]:
    """The rules of one of our rule files."""
    return [rule for group in groups(file) for rule in group["rules"]]


@cache
def recorded() -> dict[str, set[str]]:
    """What the recording rules yield, with the labels they keep."""
    return {rule["record"]: kept_labels(rule["expr"]) - {"le"} for rule in rules("recording.yml")}


def complaints(expression: str) -> list[str]:
    """What an expression names that is not there."""
    known = catalogue() | recorded()
    found: list[str] = []
    there = set(TARGET_LABELS)
    for one in series_of(expression):
        if one.name not in known:
            found.append(f"no metric {one.name}")
            continue
        there |= known[one.name]
        strange = one.labels - known[one.name] - TARGET_LABELS
        found += [f"{one.name} has no label {label}" for label in sorted(strange)]
    if "label_replace" not in expression:
        wrong = kept_labels(expression) - there
        found += [f"nothing in it has a label {label}" for label in sorted(wrong)]
    return found
