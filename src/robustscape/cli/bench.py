"""Measure speed and memory against peers: `robustscape bench [NAME...]`."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robustscape.benches.harness import Bench
from robustscape.benches.result import BenchResult, Spread, slower
from robustscape.cli import study
from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import follow, out, value_words
from robustscape.cli.sources import nouns, wants_help
from robustscape.config import found_in, is_component, nearest
from robustscape.results import load, save
from robustscape.studies.methods import Methods
from robustscape.types import BadInput

_STUDY = Methods.name
_NOT_IN_NAME = ("pairs", "warmup")  # how long was measured, not what


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``bench``.

    Attributes:
        bench: What is measured, on what.
        out: Folder that bench-NAME.json goes to; what was changed is in the file's name.
        compare: An earlier result of the bench, or a folder of them: every ratio is shown beside the earlier one,
            and the exit code is 1 where one is more than 10 % worse and the quartile ranges do not meet.
        quick: See only whether it runs: no warm-up, 2 rounds, a tiny network. Other options change that.
    """

    bench: Bench = field(metadata=SPREAD)
    out: Path = Path("runs/bench")
    compare: Path | None = None
    quick: bool = False


def main(arguments: list[str]) -> None:
    """Run the named benches, by default all but methods; print and write what they find.

    Raises:
        BadInput: no such bench, a wrong option, or nothing to compare with.
    """
    words, options = nouns(arguments)
    if words == [_STUDY]:  # a study's options; of its one table --only can only mean the methods
        study.main([_STUDY, *(re.sub("^--only(?==|$)", "--methods", word) for word in options)])
        return
    known = benches()
    if _STUDY in words:
        raise BadInput(f"bench {_STUDY} takes hours and has options of its own; ask for it alone")
    unknown = next((word for word in words if word not in (*known, "all")), None)
    if unknown is not None:
        raise BadInput(f"there is no bench {unknown!r}{nearest(unknown, known)}; there are: {', '.join(known)}, all")
    if wants_help(options) and not words:
        _overview(known)
        return
    names = [name for name in known if not words or "all" in words or name in words]
    jobs = [(settings, file_name(settings)) for name in names for settings in [_options(known[name], name, options)]]
    earlier = [_earlier(settings, name) for settings, name in jobs]
    if jobs[0][0].compare and not any(earlier):
        raise BadInput(f"{jobs[0][0].compare} holds no earlier result of {', '.join(names)}")
    worse = False
    for (settings, name), old in zip(jobs, earlier, strict=True):
        result = follow(settings.bench.running(), name=settings.bench.name)
        out("\n".join(table(result, old)))
        out(f"{save(result, settings.out / name)}\n")
        worse |= old is not None and bool(slower(result, old))
    if worse:
        sys.exit(1)


def benches() -> dict[str, type[Bench]]:
    """Return every bench by name: the dataclass with a name and ``running`` that a file of the room defines."""
    return found_in("benches", "name", "running")


def _overview(known: dict[str, type[Bench]]) -> None:
    out("usage: robustscape bench [NAME ...] [--out DIR] [--compare OLD.json] [--quick] [--OPTION VALUE ...]\n")
    width = max(map(len, known))
    for name, kind in known.items():
        out(f"  {name:<{width}}  {(inspect.getdoc(kind) or '').partition(chr(10))[0]}")
    out(f"  {_STUDY:<{width}}  {(inspect.getdoc(Methods) or '').partition(chr(10))[0]} Hours, and only by itself.")
    out("\n`robustscape bench NAME --help` explains every option of one.")


def _options(kind: type[Bench], name: str, options: list[str]) -> Options:
    """Return the options of one bench; the same words go to every bench that was named."""
    quick = "--quick" in options
    bench = kind().quick() if quick else kind()
    return parse(
        Options(bench=bench, quick=quick),
        [word for word in options if word != "--quick"],
        program=f"robustscape bench {name}",
        description=(inspect.getdoc(kind) or "").partition("\n\nAttributes:")[0],
    )


# -- files -----------------------------------------------------------------------------------------------


def file_name(options: Options) -> str:
    """Return the name of a bench's file: "bench-attack-width-16.json", what differs from the default in it."""
    bench = options.bench
    changed = ["quick"] if options.quick else []
    changed += _changed(bench, type(bench)().quick() if options.quick else type(bench)())
    return "-".join(("bench", bench.name, *(re.sub(r"[^\w.]+", "_", word) for word in changed))) + ".json"


def _changed(value: Any, default: Any) -> list[str]:
    words: list[str] = []
    for item in dataclasses.fields(value):
        now, usual = getattr(value, item.name), getattr(default, item.name)
        if is_component(now):
            words += _changed(now, usual)
        elif now != usual and item.name not in _NOT_IN_NAME:
            words += [item.name, value_words(now)]
    return words


def _earlier(options: Options, name: str) -> BenchResult | None:
    """Return the earlier result that is compared with, None where there is none for this bench."""
    path = options.compare
    if path is None:
        return None
    path = path / name if path.is_dir() else path
    if options.compare != path and not path.exists():
        return None
    result = load(path)
    if not isinstance(result, BenchResult):
        raise BadInput(f"{path} is not a result of robustscape bench")
    return result if result.name == options.bench.name else None


# -- the table -------------------------------------------------------------------------------------------


def table(result: BenchResult, old: BenchResult | None = None) -> list[str]:
    """Return the lines that show a result, beside an earlier one where there is one."""
    rows = [
        [side, f"{_words(rate)} {result.unit}/s", *_against(result, side, old)] for side, rate in result.rates.items()
    ]
    rows += [[name, _words(cost), *_was(name, cost, result, old)] for name, cost in result.costs.items()]
    rows += [[name, _words(note)] for name, note in result.notes.items()]
    widths = [max(len(row[place]) for row in rows if len(row) > place) for place in range(max(map(len, rows)))]
    lines = [f"{result.name}: {result.settings}; {result.pairs} rounds after {result.warmup:g} s of warm-up"]
    lines += [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]
    lines += [f"  {peer} {reason}" for peer, reason in result.missing.items()]
    if old is not None and old.settings != result.settings:
        lines.append(f"  the earlier one was measured on something else: {old.settings}")
    if old is not None and old.machine != result.machine:
        lines.append("  the earlier one was measured on another machine or with other threads")
    return lines


def _against(result: BenchResult, side: str, old: BenchResult | None) -> list[str]:
    """Return our rate over the peer's in words, and what it was."""
    ratio = result.ratios.get(side)
    return [] if ratio is None else [f"ours / theirs {_words(ratio)}", *_was(side, ratio, result, old)]


def _was(name: str, now: Spread, result: BenchResult, old: BenchResult | None) -> list[str]:
    then = None if old is None else (old.ratios | old.costs).get(name)
    if old is None or then is None:
        return []
    return [f"was {_words(then)}" + "  SLOWER" * (name in slower(result, old))]


def _words(value: Spread) -> str:
    return f"{value.median:.4g} [{value.low:.4g}, {value.high:.4g}]"
