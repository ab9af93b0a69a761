"""A report as one HTML page that needs nothing else: plotly.js, the figures and all texts are in it.

What a run says may be hostile. Texts are escaped where they become HTML (lfs/report_sections.py) or labels
(lfs/report_charts.py), the embedded JSON has no `<`, and the page's policy lets the browser run these two scripts, by
their hashes, and reach no network.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from lfs.report_sections import Section, escaped

HERE = Path(__file__).parent


def page(title: str, sections: Sequence[Section], *, made: str, live: bool = False) -> str:
    """The whole page.

    Args:
        made: when, for a reader.
        live: it asks its own server for changes.
    """
    scripts = [_plotly(), _asset("report.js")]
    names = "".join(f'<a href="#{s.key}">{escaped(s.title)}</a> ' for s in sections)
    body = "".join(
        f'<section id="{s.key}"><h2>{escaped(s.title)}</h2><div class="text">{s.text}</div><div class="figures"></div>'
        "</section>\n"
        for s in sections
    )
    head = (
        '<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts, live=live)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>{_asset('report.css')}</style>"
    )
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n'
        f"<body{' data-live' if live else ''}><h1>{escaped(title)}</h1>\n"
        f'<div id="status">{escaped(made)}</div><nav>{names}</nav>\n<main>\n{body}</main>\n'
        "<noscript><p>The figures need JavaScript; all texts and tables are here without.</p></noscript>\n"
        f'<script type="application/json" id="report">{embedded(_charts(sections))}</script>\n'
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
    )


def policy(scripts: Sequence[str], *, live: bool) -> str:
    """What the page may do: run these scripts, show pictures that are in it and, if it is live, ask its server."""
    server = "'self'" if live else "'none'"
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {server}; base-uri 'none'; form-action 'none'"
    )


def embedded(value: Any) -> str:
    """JSON that ends no script element, whatever is in it.

    Raises:
        ValueError: a number that is not finite.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def as_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """The sections with their texts, as a live page takes them."""
    return [{"key": s.key, "text": s.text, "charts": s.charts} for s in sections]


def _charts(sections: Sequence[Section]) -> list[dict[str, Any]]:
    return [{"key": s.key, "charts": s.charts} for s in sections]


@cache
def _plotly() -> str:
    return str(get_plotlyjs()).replace("\r", "")


@cache
def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
