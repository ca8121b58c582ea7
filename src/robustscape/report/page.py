"""One self-contained HTML page that compares any number of runs; it opens offline, without any request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from robustscape.display import DARK, LIGHT
from robustscape.report import sections
from robustscape.report.charts import Chart
from robustscape.report.words import cautions, settings, verdict
from robustscape.results import written
from robustscape.runs import RunFolder, labels, read_runs

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
"""Content security policy: the browser itself refuses every request."""


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of some runs as one HTML file, whole or not at all. Returns the file.

    Args:
        runs: Run directories, or directories of them; runs equal but for the seed become one method. What was
            not measured is named in the page, with the command that would measure it.
        out: The file, or an existing directory to write ``report.html`` into.
    """
    out = out / "report.html" if out.is_dir() else out
    text = page(read_runs(runs))
    with written(out) as file:
        file.write(text.encode())
    return out


def page(folders: Sequence[RunFolder]) -> str:
    """Return the page of some runs as HTML."""
    from plotly.offline import get_plotlyjs

    charts: dict[str, Chart] = {}
    body = [
        _top(folders),
        _legend(folders),
        sections.training(folders, charts),
        sections.landscape(folders, charts),
        sections.flatness(folders, charts),
        sections.classes(folders),
        sections.images(folders),
        sections.weights(folders, charts),
        sections.definitions(),
        sections.runs(folders),
    ]
    here = Path(__file__).parent
    scripts = [
        f'<script type="application/json" id="charts">{_json(charts)}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{(here / 'page.js').read_text()}</script>",
    ]
    return "\n".join([_head(folders, (here / "page.css").read_text()), *filter(None, body), _foot(), *scripts, _END])


_END = "</body>\n</html>\n"


def _head(folders: Sequence[RunFolder], css: str) -> str:
    names = escape(", ".join(labels(folders)))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Robustness report: {names}</title>
<style>
{css}{_variables()}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the results</a>"""


def _variables() -> str:
    """Colours of the groups as CSS variables, on both grounds."""

    def rules(palette: Sequence[str]) -> str:
        series = [f"--series-{place}: {colour};" for place, colour in enumerate(palette)]
        bands = [f"--band-{place}: {colour}2e;" for place, colour in enumerate(palette)]
        return " ".join([*series, *bands])

    swatches = "\n".join(f".series-{place} {{ color: var(--series-{place}); }}" for place in range(len(LIGHT)))
    return f""":root {{ {rules(LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ {rules(DARK)} }} }}
{swatches}
"""


def _top(folders: Sequence[RunFolder]) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in cautions(folders))
    line = escape(settings(folders))
    return f"""<header>
<h1>Robustness report: which of these will stay robust?</h1>
<p class="verdict">{escape(verdict(folders))}</p>
{f'<p class="settings">{line}</p>' if line else ""}
</header>
<main id="main">
{sections.summary(folders)}
<h2 id="care">Read with care</h2>
<ul class="cautions">{notes}</ul>"""


def _legend(folders: Sequence[RunFolder]) -> str:
    """Buttons that show or hide a method in all charts."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{group}">'
        f"{sections.swatch(group)}{escape(label)}</button>"
        for group, label in enumerate(labels(folders))
    )
    return f'<div class="legend" role="group" aria-label="Methods shown in the charts">{buttons}</div>'


def _foot() -> str:
    return """</main>
<footer>Made by robustscape from the files of the runs. This page holds everything it shows and asks the network for
nothing.</footer>
<noscript><footer>The charts need JavaScript; tables and images do not.</footer></noscript>"""


def _json(charts: dict[str, Chart]) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(charts, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
