"""The sections of the report's page, each as HTML."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from robustscape.display import LIGHT, difference, threat_words, tracked_sets
from robustscape.evaluation.result import AdversarialImages
from robustscape.report import charts, tables, words
from robustscape.report.charts import Chart
from robustscape.report.quantities import Quantity
from robustscape.report.tables import Cell, Column, Table
from robustscape.runs import RunFolder, checkpoints, grouped, labels, logs

_SHOWN = 8  # images of each run


def swatch(group: int) -> str:
    """Return a dot in the colour of a group."""
    return f'<span class="swatch series-{group % len(LIGHT)}" aria-hidden="true"></span>'


def summary(folders: Sequence[RunFolder]) -> str:
    """Return the table that the page opens with."""
    caption = (
        'Errors on test images; lower is better in every column but the last three. See <a href="#definitions">what '
    )
    table = _table(tables.summary(folders), caption=caption + "each number means</a>.")
    return table + _missing(folders, "evaluation", "evaluation-last-test", "No evaluation of the last epoch on test")


def training(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the training curves."""
    found = logs(folders)
    missing = "".join(_command("log", [f], "No training log") for f in folders if f.log is None or not f.log.epochs)
    if not any(found.values()):
        return _section("training", "Training", "", missing)
    drawn["curves-robust"] = charts.curves(found, "robust")
    drawn["curves-clean"] = charts.curves(found, "clean")
    held_out = [name for name in tracked_sets(found) if name != "train"]
    dashes = [("1 4", "train"), *zip(("none", "7 4", "7 3 2 3"), held_out, strict=False)]
    lead = "Where the training curve keeps rising and the others fall, the network overfits robustly."
    both = _pair(
        _figure("curves-robust", "Accuracy under attack", "Robust accuracy against the epoch of training."),
        _figure("curves-clean", "Accuracy without attack", "Clean accuracy against the epoch of training."),
    )
    note = "Bands: one standard deviation over seeds. " if any(len(g) > 1 for g in found.values()) else ""
    note += "Thin vertical lines: the learning rate fell." if drawn["curves-robust"]["layout"]["shapes"] else ""
    return _section("training", "Training", lead, both + _keys(dashes) + _note(note) + missing)


def landscape(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the slices of the loss in weight space."""
    title, lead = "Loss landscape", "The loss when the weights move along random directions; flat is better."
    names = checkpoints(folders, "slices")
    if not names:
        return _section("landscape", title, lead, _missing(folders, "slices", "slices-last", "No slices"))
    found = grouped(folders, f"slices-{names[0]}")
    drawn["slices-loss"] = charts.slices(found, "loss")
    drawn["slices-error"] = charts.slices(found, "error")
    both = _pair(
        _figure("slices-loss", "Loss along random directions", "Robust and clean loss against the position."),
        _figure("slices-error", "Error along random directions", "Robust and clean error against the position."),
    )
    results = [result for group in found.values() for result in group]
    how = {
        f"{r.scheme}-normalised, {len(r.clean_loss)} directions; {r.attack}; {r.split}, n = {r.n:,}" for r in results
    }
    note = f"Checkpoint {names[0]}. Adversarial examples are made anew at every position. {' / '.join(sorted(how))}. "
    note += "Bands: one standard deviation over directions and seeds."
    if len({result.scheme for result in results}) > 1:
        note += " Directions were normalised in different ways: positions do not compare."
    keys = _keys([("none", "under attack"), ("7 4", "clean")])
    missing = _missing(folders, "slices", f"slices-{names[0]}", "No slices")
    return _section("landscape", title, lead, both + keys + _note(note) + missing)


def flatness(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return robust error against flatness."""
    title, lead = "Robust error against flatness", "Bottom left is where one wants to be: flat, and few errors."
    points = {name: grouped(folders, f"flatness-{name}", f"evaluation-{name}-test")
              for name in checkpoints(folders, "flatness")}  # fmt: skip
    points = {name: groups for name, groups in points.items() if any(groups.values())}
    missing = _missing(folders, "flatness", "flatness-last", "No flatness")
    if not points:
        return _section("flatness", title, lead, missing)
    drawn["scatter"] = charts.scatter(points)
    names = list(points)
    note = f"Filled: checkpoint {names[0]}" + (f"; open: {', '.join(names[1:])}. " if names[1:] else ". ")
    note += "Each point is a run; bars are 95 % intervals."
    chart = _figure("scatter", "", "Robust error against flatness, a point for every run, with its intervals.")
    return _section("flatness", title, lead, chart + _note(note) + missing)


def classes(folders: Sequence[RunFolder]) -> str:
    """Return the table of robust errors by class, "" where nothing was evaluated."""
    table = tables.per_class(folders)
    if table is None:
        return ""
    lead = "A low mean can hide one class that is easily attacked."
    caption = "Robust error of each class on the test images, last epoch."
    return _section("classes", "Classes", lead, _table(table, caption=caption))


def images(folders: Sequence[RunFolder]) -> str:
    """Return clean and adversarial images with their difference, for the first run of each method."""
    parts = []
    names = checkpoints(folders, "images")
    for group, label in enumerate(labels(folders)):
        first = next((f for f in folders if f.label == label and names and f"images-{names[0]}" in f.results), None)
        if first is not None:
            title = f"<h3>{swatch(group)}{escape(label)}, seed {first.seed}</h3>"
            parts.append(title + _images(first.results[f"images-{names[0]}"], names[0]))
    missing = _missing(folders, "images", f"images-{names[0] if names else 'last'}", "No images")
    lead = "What the adversary changed, and what the network then saw."
    return _section("images", "Adversarial images", lead, "".join(parts) + missing)


def weights(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the histograms of the weights, one layer at a time."""
    title, lead = "Weights", "How large the weights of each layer are, biases and normalisation left out."
    names = checkpoints(folders, "histograms")
    if not names:
        return _section("weights", title, lead, _missing(folders, "histograms", "histograms-last", "No histograms"))
    found = grouped(folders, f"histograms-{names[0]}")
    layers = list(dict.fromkeys(layer for group in found.values() for result in group for layer in result.layers))
    drawn["histogram"] = charts.histograms(found, layers)
    options = "".join(f'<option value="{place}">{escape(layer)}</option>' for place, layer in enumerate(layers))
    select = f'<p><label>Layer <select data-chart="histogram" autocomplete="off">{options}</select></label></p>'
    chart = _figure("histogram", "", "Density of the chosen layer's weights, a line for every run.")
    missing = _missing(folders, "histograms", f"histograms-{names[0]}", "No histograms")
    return _section("weights", title, lead, select + chart + _note(f"Checkpoint {names[0]}; a line a run.") + missing)


def definitions() -> str:
    """Return what every number means."""
    terms = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in words.DEFINITIONS)
    return _section("definitions", "What each number means", "", f"<dl>{terms}</dl>")


def runs(folders: Sequence[RunFolder]) -> str:
    """Return settings and provenance of every run, folded."""
    parts = []
    for folder in folders:
        line = (
            f"{swatch(folder.group)}{escape(folder.label)} <span>seed {folder.seed} · {escape(str(folder.path))}</span>"
        )
        origin = {"run": folder.provenance} | {name: r.provenance for name, r in folder.results.items()}
        parts.append(
            f"<details><summary>{line}</summary>"
            f"<h3>Settings</h3>{_pre(folder.settings or 'No run.json: the model was not trained by robustscape.')}"
            f"<h3>Provenance</h3>{_pre({name: _plain(value) for name, value in origin.items() if value})}</details>"
        )
    return _section("runs", "Runs", "Everything that decides each run's numbers.", "".join(parts))


# -- pieces --------------------------------------------------------------------------------------------


def _section(name: str, title: str, lead: str, content: str) -> str:
    text = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(title)}</h2>{text}{content}</section>'


def _figure(name: str, title: str, description: str) -> str:
    """A place for a chart; ``title`` is "" where the section's own says it."""
    chart = f'<div class="chart" id="{name}" role="img" aria-label="{escape(description)}"></div>'
    return f"<figure>{f'<h3>{escape(title)}</h3>' if title else ''}{chart}</figure>"


def _pair(*figures: str) -> str:
    return f'<div class="pair">{"".join(figures)}</div>'


def _note(text: str) -> str:
    return f'<p class="lead">{escape(text)}</p>' if text else ""


def _keys(lines: Sequence[tuple[str, str]]) -> str:
    """What the line styles mean: (dash pattern, meaning)."""
    parts = [
        f'<span><svg viewBox="0 0 32 8" aria-hidden="true"><path d="M0 4H32" stroke-dasharray="{dash}"/></svg>'
        f"{escape(meaning)}</span>"
        for dash, meaning in lines
    ]
    return f'<p class="keys">{"".join(parts)}</p>'


def _missing(folders: Sequence[RunFolder], kind: str, file: str, what: str) -> str:
    """Say which runs lack a file, with the command that makes it."""
    lacking = [folder for folder in folders if file not in folder.results]
    return _command(kind, lacking, what) if lacking else ""


def _command(kind: str, lacking: Sequence[RunFolder], what: str) -> str:
    who = ", ".join(f"{folder.label} (seed {folder.seed})" for folder in lacking)
    line = f"<code>{escape(words.command(kind, lacking))}</code>"
    return f'<p class="missing">{escape(what)} for {escape(who)}. To make it: {line}</p>'


def _table(table: Table, *, caption: str) -> str:
    """A table with a row a group, in a box of its own that scrolls; ``caption`` is HTML, all else is escaped."""
    textual = [all(isinstance(row[place], str) for row in table.rows) for place in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{_words(text)}>{escape(c.name)}{_unit(c.unit)}</th>'
        for c, text in zip(table.columns, textual, strict=True)
    )
    rows = []
    for group, (first, *rest) in enumerate(table.rows):
        cells = "".join(
            f"<td{_words(text)}>{_cell(cell, c)}</td>"
            for cell, c, text in zip(rest, table.columns[1:], textual[1:], strict=True)
        )
        rows.append(f'<tr><th scope="row">{swatch(group)}{escape(str(first))}</th>{cells}</tr>')
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.columns[0].name)}: table">'
    parts = f"<caption><span>{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'{box}<table class="wide">{parts}</table></div>'


def _unit(unit: str) -> str:
    return f'<span class="unit">{escape(unit)}</span>' if unit else ""


def _words(text: bool) -> str:
    return ' class="words"' if text else ""


def _cell(cell: Cell, column: Column) -> str:
    """The number, and under it, small, its uncertainty."""
    if isinstance(cell, Quantity):
        value, space, rest = tables.to_words(cell, column).partition(" ")
        return escape(value) + (f"<small>{escape(rest)}</small>" if space else "")
    return escape(tables.to_words(cell, column))


def _images(result: AdversarialImages, checkpoint: str) -> str:
    change, factor = difference(result)
    columns = range(min(_SHOWN, len(result.x)))
    kinds = (
        ("Clean", result.x, result.clean_prediction),
        ("Adversarial", result.x_adv, result.adversarial_prediction),
        (f"Difference, ×{factor:.3g}", change, None),
    )
    rows = []
    for name, pixels, predictions in kinds:
        cells = "".join(f"<td>{_image(result, pixels[k], name, k, predictions)}</td>" for k in columns)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    caption = (
        f"Checkpoint {checkpoint}; {threat_words(result.norm, result.eps)}; {result.attack}. ✗: not the true class."
    )
    box = '<div class="scroll" role="region" tabindex="0" aria-label="Adversarial images">'
    parts = f"<caption><span>{escape(caption)}</span></caption><tbody>{''.join(rows)}</tbody>"
    return f'{box}<table class="images">{parts}</table></div>'


def _image(result: AdversarialImages, pixels: np.ndarray, name: str, k: int, predictions: np.ndarray | None) -> str:
    truth = result.classes[result.y[k]]
    alt, text = f"{name}: image of class {truth}", ""
    if predictions is not None:
        seen = result.classes[predictions[k]]
        alt += f", classified as {seen}"
        right = predictions[k] == result.y[k]
        text = f"<span>{escape(seen)}</span>" if right else f'<span class="wrong">✗ {escape(seen)}</span>'
    return f'<img src="{_png(pixels)}" alt="{escape(alt)}" width="80" height="80">{text}'


def _png(pixels: np.ndarray) -> str:
    """An image (C, H, W) in [0, 1] as a data address."""
    from PIL import Image

    levels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = Image.fromarray(levels.transpose(1, 2, 0) if len(levels) == 3 else levels[0])
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def _pre(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f'<pre tabindex="0">{escape(text)}</pre>'


def _plain(value: Any) -> Any:
    return value if isinstance(value, dict) else vars(value)
