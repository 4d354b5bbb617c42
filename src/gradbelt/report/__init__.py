"""A story, told: one line in a terminal, a page, a verdict that programs read.

    render_live(finding, lang=...)                  one line, at the first alarm of a run
    render_console(story, lang=..., ...)            what happened, why, what to change; one line where all is well
    render_html(story, record, lang=...)            one self-contained page
    write_verdict(story), read_verdict(path)        verdict.json, schema 1

Each name is fetched when first used: asking for the catalogues of `locales/` loads no renderer, and only the page
needs plotly and jinja2.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradbelt.report.console import render_console as render_console
    from gradbelt.report.console import render_live as render_live
    from gradbelt.report.html import render_html as render_html
    from gradbelt.report.verdict import read_verdict as read_verdict
    from gradbelt.report.verdict import write_verdict as write_verdict

_WHERE = {
    "render_console": "gradbelt.report.console",
    "render_live": "gradbelt.report.console",
    "render_html": "gradbelt.report.html",
    "read_verdict": "gradbelt.report.verdict",
    "write_verdict": "gradbelt.report.verdict",
}

__all__ = ["read_verdict", "render_console", "render_html", "render_live", "write_verdict"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'gradbelt.report' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
