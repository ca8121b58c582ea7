"""The command that measures of some runs what is shown of others, in the same way."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from robustscape.config import ROOMS, from_plain, members, to_plain
from robustscape.runs import RunFolder
from robustscape.types import BadInput, Plain

_PLACES = {"other": "OTHER", "start": "START"}
"""Fields that hold where another network lies, to what stands for it: every run has its own."""

_KEPT = ("threat", "vectors")  # the run's own threat model is meant, and vectors are kept for no number
_USUAL = 1000  # images of a model that no run of ours made


def command(measure: str, example: Any, checkpoint: str, folders: Sequence[RunFolder]) -> str:
    """Return the command that measures some runs as a result was measured: with all options that are not the defaults.

    Args:
        measure: Name of the measurement, for example "slices".
        example: The result that is shown; where another network was needed, the command has a word in capitals.
        checkpoint: Of which checkpoint.
        folders: The runs.
    """
    words = ["robustscape measure", *(shlex.quote(str(folder.path)) for folder in folders), measure]
    words += [] if checkpoint == "last" else ["--checkpoint", shlex.quote(checkpoint)]
    split = getattr(example, "split", "test")
    words += [] if split == "test" else ["--split", split]
    words += _images(example, folders)
    return " ".join([*words, *_settings(measure, example.provenance.settings)])


def _images(example: Any, folders: Sequence[RunFolder]) -> list[str]:
    """Return how many images are asked for, where it is not what all runs take by themselves."""
    n = getattr(example, "n", None)
    if n is None:
        return []
    whole = ", first " not in example.provenance.data
    usual = [folder.settings.get("evaluation", {}).get("n", _USUAL) for folder in folders]
    wanted = None if whole else n
    return [] if all(of == wanted for of in usual) else ["--n", "none" if wanted is None else str(n)]


def _settings(measure: str, settings: Plain) -> list[str]:
    kind = members("Measurement").get(measure)
    try:
        found = to_plain(from_plain(settings))
        default = to_plain(kind()) if kind is not None else None
    except (BadInput, TypeError, ValueError):  # of a version that is too far away
        return []
    if default is None or found.get("type") != default["type"]:
        return []
    return list(_differing(f"--{measure.replace('_', '-')}", found, default))


def _differing(path: str, found: Mapping[str, Plain], default: Mapping[str, Plain]) -> Iterator[str]:
    """Yield the options that make one component of another of its type."""
    for name, value in found.items():
        option, usual = f"{path}.{name.replace('_', '-')}", default.get(name)
        if name in _KEPT or value == usual:
            continue
        if name in _PLACES:
            yield from (option, _PLACES[name])
        elif not isinstance(value, dict):
            yield from _option(option, value)
        else:
            if not isinstance(usual, dict) or usual.get("type") != value["type"]:
                yield from (option, _named(value["type"]))
                usual = _default(value)
            yield from _differing(option, value, usual)


def _default(value: Mapping[str, Plain]) -> Mapping[str, Plain]:
    """Return a component of a type with its defaults; what it cannot be made without is kept."""
    try:
        return to_plain(from_plain({name: value[name] for name in ("type", "threat") if name in value}))
    except (BadInput, TypeError, ValueError):
        return value


def _option(option: str, value: Plain) -> Iterator[str]:
    if isinstance(value, bool):
        head, _, last = option.rpartition(".")
        yield option if value else f"{head}.no-{last}"
        return
    yield option
    for one in value if isinstance(value, list) else [value]:
        yield "none" if one is None else f"{one:.12g}" if isinstance(one, float) else shlex.quote(str(one))


def _named(kind: str) -> str:
    """Return what the command line calls a component: its file, or a part of a file by its class in small letters."""
    module, _, name = kind.partition(":")
    room, _, file = module.rpartition(".")
    protocols = [protocol for protocol, its in ROOMS.items() if its == room]
    if any(members(protocol).get(file, type(None)).__name__ == name for protocol in protocols):
        return file
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
