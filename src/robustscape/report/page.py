"""One self-contained HTML page of any number of runs and studies; it opens offline, without any request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from robustscape.display import DARK, LIGHT
from robustscape.report import pictures, pieces, relations, sections
from robustscape.report.charts import Chart
from robustscape.report.study_sections import study
from robustscape.report.words import about_studies, cautions, settings, verdict
from robustscape.results import written
from robustscape.runs import RunFolder, StudyFolder, labels, read_folders

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "form-action 'none'; base-uri 'none'"
)
"""Content security policy: the browser itself refuses every request."""


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Write the report of some runs and studies as one HTML file, whole or not at all. Returns the file.

    Args:
        runs: Run directories and studies' folders, or directories of them; runs equal but for the seed become one
            method. What was not measured is named in the page, with the command that would measure it.
        out: The file, or an existing directory to write ``report.html`` into.
    """
    out = out / "report.html" if out.is_dir() else out
    found = read_folders(runs)
    text = page(found.runs, found.studies)
    with written(out) as file:
        file.write(text.encode())
    return out


def page(folders: Sequence[RunFolder], studies: Sequence[StudyFolder] = ()) -> str:
    """Return the page of some runs, of some studies, or of both, as HTML."""
    from plotly.offline import get_plotlyjs

    charts: dict[str, Chart] = {}
    body = [
        *(_of_runs(folders, charts) if folders else [_top_of_studies(studies)]),
        *(study(each, number, charts) for number, each in enumerate(studies, start=1)),
        sections.definitions(runs=bool(folders), studies=bool(studies)),
        sections.runs(folders) if folders else "",
    ]
    here = Path(__file__).parent
    scripts = [
        f'<script type="application/json" id="charts">{_json(charts)}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{(here / 'page.js').read_text()}</script>",
    ]
    title = ", ".join(dict.fromkeys([*labels(folders), *(each.name for each in studies)]))
    return "\n".join([_head(title, (here / "page.css").read_text()), *filter(None, body), _foot(), *scripts, _END])


def _of_runs(folders: Sequence[RunFolder], charts: dict[str, Chart]) -> list[str]:
    """The header and all sections that show runs, under the buttons of the methods."""
    return [
        _top(folders),
        '<div class="runs">',
        _legend(folders),
        sections.training(folders, charts),
        sections.slices(folders),
        *pictures.sections(folders, charts),
        sections.flatness(folders, charts),
        relations.section(folders, charts),
        sections.attacks(folders),
        sections.comparison(folders),
        sections.classes(folders),
        sections.images(folders),
        sections.weights(folders, charts),
        "</div>",
    ]


_END = "</body>\n</html>\n"


def _head(names: str, css: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Robustness report: {escape(names)}</title>
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


def _top_of_studies(studies: Sequence[StudyFolder]) -> str:
    return f"""<header>
<h1>Study report: what papers print, and what comes out here</h1>
<p class="verdict">{escape(about_studies(studies))}</p>
</header>
<main id="main">"""


def _legend(folders: Sequence[RunFolder]) -> str:
    """Buttons that show or hide a method in all charts."""
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-group="{group}">{pieces.swatch(group)}{escape(label)}</button>'
        for group, label in enumerate(labels(folders))
    )
    return f'<div class="legend" role="group" aria-label="Methods shown in the charts">{buttons}</div>'


def _foot() -> str:
    return """</main>
<footer>Made by robustscape from saved results alone. This page holds everything it shows and asks the network for
nothing.</footer>
<noscript><footer>The charts need JavaScript; tables and images do not.</footer></noscript>"""


def _json(charts: dict[str, Chart]) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(charts, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
