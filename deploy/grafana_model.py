"""Dashboards as Grafana reads them: its classic JSON model (schema 39, Grafana 10 and later).

No library: the SDKs that there are weigh more than these panels do. What stands on the dashboards:
deploy/dashboards.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_COLUMNS: Final = 24
_HEIGHT: Final = 8
_STAT_HEIGHT: Final = 4
_COLOURS: Final = ("text", "green", "blue", "yellow", "orange", "red", "purple")


@dataclass(frozen=True, slots=True)
class Query:
    """One line of PromQL, and what its series are called."""

    expression: str
    legend: str = ""
    is_rare: bool = False  # yields nothing while all is well


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. It turns orange at `warn` and red at `bad`; below them where `is_low_bad`."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"  # Grafana's name of it
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    warn: float | None = None
    bad: float | None = None
    is_low_bad: bool = False
    is_stacked: bool = False
    names: Sequence[str] = ()  # of the values 0, 1, 2 …


@dataclass(frozen=True, slots=True)
class Row:
    """A heading with panels below it."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file: its name, what it is for, and which variables narrow it."""

    name: str
    title: str
    about: str
    rows: Sequence[Row]
    variables: Sequence[str] = field(default_factory=tuple)  # of `_VARIABLES`

    def queries(self) -> Iterator[tuple[str, Query]]:
        """Each query with its panel's title."""
        for row in self.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield panel.title, query


_VARIABLES: Final = {
    "channel": ("Channel", "label_values(smsgw_channel_state, channel)"),
    "tenant": ("Tenant", "label_values(smsgw_accepted_total, tenant)"),
    "instance": ("Node", 'label_values(up{job="smsgw"}, instance)'),
}


def _thresholds(panel: Panel) -> dict[str, Any]:
    """Steps by rising value: from each one on its colour holds."""
    marks = [(panel.warn, "orange"), (panel.bad, "red")]
    known = [(at, colour) for at, colour in marks if at is not None]
    if panel.is_low_bad:  # red up to `bad`, orange up to `warn`, green from there
        ends = sorted(known)
        colours = [colour for _, colour in ends] + ["green"]
        steps: list[dict[str, Any]] = [{"color": colours[0], "value": None}]
        steps += [
            {"color": colour, "value": at}
            for (at, _), colour in zip(ends, colours[1:], strict=True)
        ]
    else:
        steps = [{"color": "green", "value": None}]
        steps += [{"color": colour, "value": at} for at, colour in known]
    return {"mode": "absolute", "steps": steps}


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    """Words and colours for numbers, from good to bad in the order of the names."""
    if not panel.names:
        return []
    named = {
        str(value): {"text": name, "index": value, "color": colour}
        for value, (name, colour) in enumerate(zip(panel.names, _COLOURS, strict=True))
    }
    return [{"type": "value", "options": named}]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"colorMode": "background", "reduceOptions": {"calcs": ["lastNotNull"]}}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True}
    legend = {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    custom: dict[str, Any] = {}
    if panel.kind == "timeseries":
        custom = {
            "fillOpacity": 20 if panel.is_stacked else 0,
            "stacking": {"mode": "normal" if panel.is_stacked else "none"},
            # A line where it becomes bad, not a coloured curve.
            "thresholdsStyle": {"mode": "off" if panel.bad is None else "dashed"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": _height(panel)},
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend or "__auto",
            }
            for place, query in enumerate(panel.queries)
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": custom,
                "thresholds": _thresholds(panel),
                "mappings": _mappings(panel),
            },
            "overrides": [],
        },
        "options": _options(panel),
    }


def _height(panel: Panel) -> int:
    return _STAT_HEIGHT if panel.kind == "stat" else _HEIGHT


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Rows from above, panels from the left, a new line where one does not fit."""
    number, y = 0, 0
    for row in rows:
        number += 1
        grid = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "gridPos": grid, "panels": []}
        x, y, line = 0, y + 1, 0
        for panel in row.panels:
            number += 1
            if x + panel.width > _COLUMNS:
                x, y, line = 0, y + line, 0
            yield _panel(panel, number, x, y)
            x, line = x + panel.width, max(line, _height(panel))
        y += line


def _variable(name: str) -> dict[str, Any]:
    label, query = _VARIABLES[name]
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # when the time range changes: channels and tenants come and go
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


def model(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana reads it."""
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    pages = {
        "name": "Pages",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertstate="firing", severity="page"}',
        "titleFormat": "{{alertname}}",
    }
    links = {"title": "smsgw", "type": "dashboards", "tags": ["smsgw"], "asDropdown": True}
    return {
        "uid": f"smsgw-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["smsgw"],
        "schemaVersion": 39,
        "editable": False,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "annotations": {"list": [pages]},
        "links": [links | {"keepTime": True}],
        "templating": {"list": [source, *(_variable(name) for name in dashboard.variables)]},
        "panels": list(_laid_out(dashboard.rows)),
    }


def text(dashboard: Dashboard) -> str:
    """Its file."""
    return json.dumps(model(dashboard), indent=1, ensure_ascii=False) + "\n"
