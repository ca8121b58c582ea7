"""The sections of the report's page, each as HTML."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from robustscape.display import difference, threat_words, tracked_sets
from robustscape.evaluation.result import AdversarialImages
from robustscape.report import asking, charts, pieces, tables, words
from robustscape.report import attacks as attack_tables
from robustscape.report.charts import Chart
from robustscape.report.comparing import comparisons
from robustscape.report.doubts import doubts, looks
from robustscape.runs import RunFolder, checkpoints, grouped, labels, logs

_SHOWN = 8  # images of each run
_NO_SETTINGS = "No run.json: the model was not trained by robustscape."


def summary(folders: Sequence[RunFolder]) -> str:
    """Return the table that the page opens with."""
    caption = (
        'Errors on test images; lower is better in every column but the last three. See <a href="#definitions">what '
    )
    table = pieces.table(tables.summary(folders), caption=caption + "each number means</a>.")
    return table + _missing(folders, "evaluation", "evaluation-last-test", "No evaluation of the last epoch on test")


def training(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the training curves."""
    found = logs(folders)
    missing = "".join(_command("log", [f], "No training log") for f in folders if f.log is None or not f.log.epochs)
    if not any(found.values()):
        return pieces.section("training", "Training", "", missing)
    drawn["curves-robust"] = charts.curves(found, "robust")
    drawn["curves-clean"] = charts.curves(found, "clean")
    held_out = [name for name in tracked_sets(found) if name != "train"]
    dashes = [("1 4", "train"), *zip(("none", "7 4", "7 3 2 3"), held_out, strict=False)]
    lead = "Where the training curve keeps rising and the others fall, the network overfits robustly."
    both = pieces.pair(
        pieces.figure("curves-robust", "Accuracy under attack", "Robust accuracy against the epoch of training."),
        pieces.figure("curves-clean", "Accuracy without attack", "Clean accuracy against the epoch of training."),
    )
    note = "Bands: one standard deviation over seeds. " if any(len(g) > 1 for g in found.values()) else ""
    note += "Thin vertical lines: the learning rate fell." if drawn["curves-robust"]["layout"]["shapes"] else ""
    return pieces.section("training", "Training", lead, both + pieces.keys(dashes) + pieces.note(note) + missing)


def slices(folders: Sequence[RunFolder]) -> str:
    """Return how slices of the loss in weight space are made, "" where any run has them."""
    if checkpoints(folders, "slices"):
        return ""
    lead = "The loss when the weights move along random directions; flat is better."
    return pieces.section("landscape", "Loss landscape", lead, _missing(folders, "slices", "slices-last", "No slices"))


def flatness(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return robust error against flatness."""
    title, lead = "Robust error against flatness", "Bottom left is where one wants to be: flat, and few errors."
    points = {name: grouped(folders, f"flatness-{name}", f"evaluation-{name}-test")
              for name in checkpoints(folders, "flatness")}  # fmt: skip
    points = {name: groups for name, groups in points.items() if any(groups.values())}
    missing = _missing(folders, "flatness", "flatness-last", "No flatness")
    if not points:
        return pieces.section("flatness", title, lead, missing)
    drawn["scatter"] = charts.scatter(points)
    names = list(points)
    note = f"Filled: checkpoint {names[0]}" + (f"; open: {', '.join(names[1:])}. " if names[1:] else ". ")
    note += "Each point is a run; bars are 95 % intervals."
    chart = pieces.figure("scatter", "", "Robust error against flatness, a point for every run, with its intervals.")
    return pieces.section("flatness", title, lead, chart + pieces.note(note) + missing)


def classes(folders: Sequence[RunFolder]) -> str:
    """Return the table of robust errors by class, "" where nothing was evaluated."""
    table = tables.per_class(folders)
    if table is None:
        return ""
    lead = "A low mean can hide one class that is easily attacked."
    caption = "Robust error of each class on the test images, last epoch."
    return pieces.section("classes", "Classes", lead, pieces.table(table, caption=caption))


def attacks(folders: Sequence[RunFolder]) -> str:
    """Return the table of what each attack came to, "" where no evaluation says so."""
    table = attack_tables.attacks(folders)
    if table is None:
        return ""
    lead = "Attacks that find what others missed say how far the others can be trusted."
    caption = "Every evaluation, attack by attack; passes include those that fill a batch."
    made, found = looks(folders), doubts(folders)
    said = pieces.note(f"{made} looks for reasons not to believe these numbers; found: {len(found) or 'none'}.")
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in found)
    content = pieces.table(table, caption=caption, groups=False) + (said if made else "")
    content += f"<ul>{listed}</ul>" if found else ""
    if more := attack_tables.remarks(folders):
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in more)
        heading = "<summary>What float32 corrected, few classes changed or settings weaken</summary>"
        content += f"<details>{heading}<ul>{items}</ul></details>"
    return pieces.section("attacks", "Attack by attack", lead, content)


def comparison(folders: Sequence[RunFolder]) -> str:
    """Return the table of methods against the most robust one, image by image, "" where nothing pairs."""
    table = comparisons(folders)
    if table is None:
        return ""
    lead = "Judged on the same images, two methods can be told apart where their intervals overlap."
    caption = "The first method minus the second, more robust one; last epoch, test images: above 0 is worse."
    content = pieces.table(table, caption=caption, groups=False)
    return pieces.section("comparison", "Image by image", lead, content)


def images(folders: Sequence[RunFolder]) -> str:
    """Return clean and adversarial images with their difference, for the first run of each method."""
    parts = []
    names = checkpoints(folders, "images")
    for group, label in enumerate(labels(folders)):
        first = next((f for f in folders if f.label == label and names and f"images-{names[0]}" in f.results), None)
        if first is not None:
            title = f"<h3>{pieces.swatch(group)}{escape(label)}, seed {first.seed}</h3>"
            parts.append(title + _images(first.results[f"images-{names[0]}"], names[0]))
    missing = _missing(folders, "images", f"images-{names[0] if names else 'last'}", "No images")
    lead = "What the adversary changed, and what the network then saw."
    return pieces.section("images", "Adversarial images", lead, "".join(parts) + missing)


def weights(folders: Sequence[RunFolder], drawn: dict[str, Chart]) -> str:
    """Return the histograms of the weights, one layer at a time."""
    title, lead = "Weights", "How large the weights of each layer are, biases and normalisation left out."
    names = checkpoints(folders, "histograms")
    if not names:
        return pieces.section(
            "weights", title, lead, _missing(folders, "histograms", "histograms-last", "No histograms")
        )
    found = grouped(folders, f"histograms-{names[0]}")
    layers = list(dict.fromkeys(layer for group in found.values() for result in group for layer in result.layers))
    drawn["histogram"] = charts.histograms(found, layers)
    options = "".join(f'<option value="{place}">{escape(layer)}</option>' for place, layer in enumerate(layers))
    select = f'<p><label>Layer <select data-chart="histogram" autocomplete="off">{options}</select></label></p>'
    chart = pieces.figure("histogram", "", "Density of the chosen layer's weights, a line for every run.")
    missing = _missing(folders, "histograms", f"histograms-{names[0]}", "No histograms")
    return pieces.section(
        "weights", title, lead, select + chart + pieces.note(f"Checkpoint {names[0]}; a line a run.") + missing
    )


def definitions(*, runs: bool = True, studies: bool = False) -> str:
    """Return what every number means, of runs, of studies or of both."""
    found = words.definitions(runs=runs, studies=studies)
    terms = "".join(f"<div><dt>{escape(term)}</dt><dd>{escape(text)}</dd></div>" for term, text in found)
    return pieces.section("definitions", "What each number means", "", f"<dl>{terms}</dl>")


def runs(folders: Sequence[RunFolder]) -> str:
    """Return settings and provenance of every run, folded."""
    parts = []
    for folder in folders:
        about = f"<span>seed {folder.seed} · {escape(str(folder.path))}</span>"
        line = f"{pieces.swatch(folder.group)}{escape(folder.label)} {about}"
        origin = {"run": folder.provenance} | {name: r.provenance for name, r in folder.results.items()}
        parts.append(
            f"<details><summary>{line}</summary>"
            f"<h3>Settings</h3>{pieces.pre(folder.settings or _NO_SETTINGS)}"
            f"<h3>Provenance</h3>{pieces.pre({n: _plain(value) for n, value in origin.items() if value})}</details>"
        )
    return pieces.section("runs", "Runs", "Everything that decides each run's numbers.", "".join(parts))


# -- pieces --------------------------------------------------------------------------------------------


def _missing(folders: Sequence[RunFolder], kind: str, file: str, what: str) -> str:
    """Say which runs lack a file, with the command that makes it."""
    lacking = [folder for folder in folders if file not in folder.results]
    example = next((folder.results[file] for folder in folders if file in folder.results), None)
    return _command(kind, lacking, what, example) if lacking else ""


def _command(kind: str, lacking: Sequence[RunFolder], what: str, example: Any = None) -> str:
    """Say which runs lack something, with the command that makes it as it was made for others."""
    who = ", ".join(f"{folder.label} (seed {folder.seed})" for folder in lacking)
    line = asking.command(kind, example, "last", lacking) if kind == "flatness" and example else None
    line = f"<code>{escape(line or words.command(kind, lacking))}</code>"
    return f'<p class="missing">{escape(what)} for {escape(who)}. To make it: {line}</p>'


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


def _plain(value: Any) -> Any:
    return value if isinstance(value, dict) else vars(value)
