"""``--PATH NAME``: put the component called NAME at PATH, before anything else on the command line is read."""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from robustscape.config import hints, is_component, members, named, nearest, presets, protocol_of
from robustscape.types import BadInput

T = TypeVar("T")

SPREAD: Mapping[str, bool] = {"spread": True}
"""Metadata of a field whose options stand beside those of its owner: ``run`` gives --seed, not --run.seed."""


def swap(default: T, tokens: list[str]) -> tuple[T, list[str]]:
    """Carry out every ``--PATH NAME`` (or ``--PATH=NAME``) that names a component, outer paths first.

    Where several stand, NAME is their names with commas between them, or spaces.

    Args:
        default: What stands there without options.
        tokens: The command line; what is carried out is taken out of it.

    Returns:
        ``default`` with the components that were named, and the rest of the command line.

    Raises:
        BadInput: a PATH without a NAME, or a component that does not exist.
    """
    for depth in range(1, 1 + max((token.count(".") + 1 for token in tokens), default=0)):
        position = 0
        while position < len(tokens):
            option, equals, name = tokens[position].partition("=")
            path = option.removeprefix("--").replace("-", "_").split(".")
            slot = _slot(default, path) if option.startswith("--") and len(path) == depth else None
            if slot is None:
                position += 1
                continue
            if not equals:
                if len(tokens) < position + 2 or tokens[position + 1].startswith("-"):
                    raise BadInput(f"{option} needs a name, one of {', '.join(choices(*slot))}")
                name = tokens.pop(position + 1)
                while several(slot[0]) and len(tokens) > position + 1 and not tokens[position + 1].startswith("-"):
                    name += f",{tokens.pop(position + 1)}"
            del tokens[position]
            default = _put(default, path, _chosen(*slot, name, option))
    return default, tokens


def _parts(value: Any) -> dict[str, tuple[Any, Any]]:
    """Return what stands inside a component or a dict of them: name to (annotation, value), spread ones flat."""
    if isinstance(value, Mapping):
        return {name: (type(item), item) for name, item in value.items()}
    if not is_component(value):
        return {}
    kinds, found = hints(type(value)), {}
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        found |= _parts(item) if spread(field) else {field.name: (kinds[field.name], item)}
        if several(kinds[field.name]):
            found |= {name: (type(one), one) for name, one in by_name(item).items()}
    return found


def several(annotation: Any) -> str | None:
    """Return which protocol of ``ROOMS`` a field holds several components of, None for any other field."""
    kind, *rest = typing.get_args(annotation) or (None,)
    return protocol_of(kind) if typing.get_origin(annotation) is tuple and rest == [...] else None


def by_name(components: Sequence[Any]) -> dict[str, Any]:
    """Return the components of a field for several by their names; those that share one cannot be told apart."""
    names = [file_of(one) for one in components]
    return {name: one for name, one in zip(names, components, strict=True) if names.count(name) == 1}


def file_of(component: Any) -> str:
    """Return the name of the file that a component is from."""
    return type(component).__module__.rpartition(".")[2]


def spread(field: dataclasses.Field[Any]) -> bool:
    """Return whether a field's options stand beside those of its owner."""
    return bool(field.metadata.get("spread"))


def _slot(value: Any, path: Sequence[str]) -> tuple[Any, Any] | None:
    """Return annotation and value of the field at a path, None unless a component can be chosen for it."""
    for name in path[:-1]:
        value = _parts(value).get(name, (None, None))[1]
    found = _parts(value).get(path[-1])
    return found if found and choices(*found) else None


def _put(value: Any, path: Sequence[str], new: Any) -> Any:
    """Return ``value`` with another component at a path that leads to a slot."""
    head, *rest = path
    if isinstance(value, Mapping):
        return {**value, head: _put(value[head], rest, new) if rest else new}
    for field in dataclasses.fields(value):
        if spread(field) and head in _parts(getattr(value, field.name)):
            return _replaced(value, field.name, _put(getattr(value, field.name), path, new))
        if several(hints(type(value))[field.name]) and head in by_name(now := getattr(value, field.name)):
            changed = tuple(_put(one, rest, new) if file_of(one) == head else one for one in now)
            return _replaced(value, field.name, changed)
    return _replaced(value, head, _put(getattr(value, head), rest, new) if rest else new)


def _replaced(value: Any, name: str, new: Any) -> Any:
    return dataclasses.replace(value, **{name: new})


def choices(annotation: Any, now: Any) -> tuple[str, ...]:
    """Return the names that ``--PATH NAME`` takes for a field; none where no component can be chosen."""
    if protocol := protocol_of(annotation) or several(annotation):
        kinds = members(protocol).items()
        names = [name for file, kind in kinds for name in (file, *(f"{file}.{preset}" for preset in presets(kind)))]
    else:
        names = list(_alternatives(annotation, now))
    empty = type(None) in typing.get_args(annotation) or several(annotation)
    return (*names, "none") if names and empty else tuple(names)


def _alternatives(annotation: Any, now: Any) -> dict[str, type]:
    """Return the components that may stand in a field that no room is for, by class name in small letters.

    A field typed by dataclasses (``CropFlip | None``) takes these; one typed as Callable takes the others of
    the file that its present one is from.
    """
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    kinds = [kind for kind in typing.get_args(annotation) if union and dataclasses.is_dataclass(kind)]
    if typing.get_origin(annotation) is collections.abc.Callable and is_component(now):
        module = inspect.getmodule(type(now))
        own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]  # pyright: ignore[reportOptionalMemberAccess]
        kinds = [kind for kind in own if dataclasses.is_dataclass(kind)]
    return {_small(kind): kind for kind in kinds if isinstance(kind, type)}


def _small(kind: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def name_of(annotation: Any, now: Any) -> str:
    """Return the name by which a field's present component would be chosen."""
    if not now and (now is None or several(annotation)):
        return "none"
    if several(annotation):
        return ",".join(file_of(one) for one in now)
    return file_of(now) if protocol_of(annotation) else _small(type(now))


def _chosen(annotation: Any, now: Any, name: str, option: str) -> Any:
    """Return the component of that name for a field in which ``now`` stands."""
    known = choices(annotation, now)
    if protocol := several(annotation):
        return tuple(named(protocol, one) for one in name.split(",") if one not in ("", "none", "None"))
    if name in ("none", "None"):
        if "none" in known:
            return None
        raise BadInput(f"{option} cannot be none; there are: {', '.join(known)}")
    if protocol := protocol_of(annotation):
        return named(protocol, name, old=now)
    kind = _alternatives(annotation, now).get(name.replace("-", "_"))
    if kind is None:
        raise BadInput(f"{option} cannot be {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
    return kind()
