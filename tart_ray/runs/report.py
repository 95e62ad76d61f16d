"""report.html: the run's figures on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

_PAGE = jinja2.Environment(autoescape=True).from_string(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>tart-ray {{ report.job }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 50rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin-bottom: 1.5rem; width: 100% }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .5rem; text-align: left; vertical-align: top }
.warning { background: #fff4d6; border-left: .3rem solid #e0a800; padding: .3rem .7rem }
td:last-child { text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere }
</style>
<h1>{{ report.job }}</h1>
<p>Every row: {{ summary }}.</p>
{% for warning in report.warnings %}
<p class="warning">{{ warning }}</p>
{% endfor %}
{% if table %}
<h2>Results</h2>
{{ picture | safe }}
<table class="results">
<tr>{% for cell in table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for line in table[1:] %}<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table>
{% endif %}
{% for title, rows in sections %}
<h2>{{ title }}</h2>
<table>{% for name, value in rows %}<tr><th>{{ name }}</th><td>{{ value }}</td></tr>{% endfor %}</table>
{% endfor %}
"""
)


def render(
    report: Mapping[str, Any],
    summary: str,
    figures: Mapping[str, Any],
    table: Sequence[Sequence[str]] = (),
    picture: str = "",
) -> str:
    """The page for a report: how its ``counts`` reconcile, results, counts, some figures, the configuration."""
    sections = [
        ("Rows", list(_shown(report["counts"]))),
        ("Figures", list(_shown(figures))),
        ("Configuration", list(_shown(_flat(report["config"])))),
    ]
    return _PAGE.render(report=report, summary=summary, sections=sections, table=table, picture=picture)


def _shown(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    number = {int: "{:,}", float: "{:,.2f}"}
    return [(name.replace("_", " "), number.get(type(value), "{}").format(value)) for name, value in values.items()]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
