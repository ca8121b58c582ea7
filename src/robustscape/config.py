"""Components as plain data and back, and finding a component by the name of its file.

A component is a frozen keyword-only dataclass in a file of a room; in plain data it is its fields and
``"type": "attacks.pgd:PGD"``. Only rooms of robustscape are ever imported from plain data.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from robustscape.types import BadInput, Plain

ROOMS = {
    "Attack": "attacks",
    "Objective": "objectives",
    "WeightPerturbation": "weights",
    "Measurement": "landscape",
    "Architecture": "models",
    "DataSource": "data",
    "Schedule": "training.schedules",
    "Optimizer": "training.optimizers",
}
"""Protocol (in ``types.py``) to the room whose files hold its members."""

_PACKAGE = "robustscape"
_NON_FINITE = ("nan", "inf", "-inf")


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """Return " (did you mean X?)" for the known name closest to ``name``, or "" where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def files(room: str) -> tuple[str, ...]:
    """Return the names of the public files of a room, for example ("fgsm", "noise", "pgd", "threat")."""
    package = importlib.import_module(f"{_PACKAGE}.{room}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def found_in(room: str, *attributes: str) -> dict[str, Any]:
    """Return the dataclasses that the files of a room define and that have all attributes, by the file's name."""
    found: dict[str, Any] = {}
    for file in files(room):
        module = importlib.import_module(f"{_PACKAGE}.{room}.{file}")
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value)
            if own and all(hasattr(value, name) for name in attributes):
                found[file] = value
    return found


def hints(kind: type) -> dict[str, Any]:
    """Return the resolved annotation of every field of a dataclass, ``Annotated`` kept."""
    return typing.get_type_hints(kind, localns=_late_names(), include_extras=True)


def protocol_of(annotation: Any) -> str | None:
    """Return which of ``ROOMS`` an annotation (``Attack``, ``Attack | None``) means, None for any other."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    for kind in typing.get_args(annotation) if union else (annotation,):
        if getattr(kind, "__module__", "") == f"{_PACKAGE}.types" and getattr(kind, "__name__", "") in ROOMS:
            return kind.__name__
    return None


def is_component(value: Any) -> bool:
    """Return whether the value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


@cache
def _required(protocol: str) -> frozenset[str]:
    kind = getattr(importlib.import_module(f"{_PACKAGE}.types"), protocol)
    own = set(vars(kind)) | set(vars(kind).get("__annotations__", {}))
    return frozenset(n for n in own if n == "__call__" or not n.startswith("_"))


@cache
def component(protocol: str, file: str) -> type | None:
    """Return the component that a file of the protocol's room defines, None for a file without one.

    It is the first frozen dataclass defined there that has all members of the protocol.
    """
    module = importlib.import_module(f"{_PACKAGE}.{ROOMS[protocol]}.{file}")
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and dataclasses.is_dataclass(value):
            fields = {field.name for field in dataclasses.fields(value)}
            if all(name in fields or _has(value, name) for name in _required(protocol)):
                return value
    return None


def _has(kind: type, name: str) -> bool:
    """Return whether instances have the attribute; asking the class alone finds its metaclass's __call__."""
    return any(name in vars(base) for base in kind.__mro__)


def members(protocol: str) -> dict[str, type]:
    """Return every component of a protocol's room: file name to class."""
    found = {file: component(protocol, file) for file in files(ROOMS[protocol])}
    return {file: kind for file, kind in found.items() if kind is not None}


def presets(kind: type) -> tuple[str, ...]:
    """Return the names of a component's presets: its public class methods."""
    return tuple(n for n, value in vars(kind).items() if isinstance(value, classmethod) and not n.startswith("_"))


def named(protocol: str, name: str, *, old: Any = None) -> Any:
    """Return the component called ``FILE`` (with its defaults) or ``FILE.PRESET`` (a class method).

    Args:
        protocol: One of ``ROOMS``.
        name: For example "pgd" or "awp.official"; hyphens stand for underscores.
        old: The component that it takes the place of, if any. The components inside ``old`` that the new one
            has a field of the same name and type for (an objective's ``attack``, an attack's ``threat``) go
            over into it, and so does whatever it cannot be made without. Numbers and words do not: the new
            component's own defaults are meant.

    Raises:
        BadInput: no such file, no such preset, or a component that has required fields.
    """
    make = _maker(protocol, name)
    parameters = inspect.signature(make).parameters.values()
    required = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    missing = [n for n in required if not hasattr(old, n)]
    if missing:
        raise BadInput(f"{name} cannot stand alone: it needs {', '.join(missing)}")
    new = make(**{n: getattr(old, n) for n in required})
    return dataclasses.replace(new, **_common_parts(old, new)) if is_component(old) else new


def _maker(protocol: str, name: str) -> typing.Callable[..., Any]:
    file, _, preset = name.replace("-", "_").partition(".")
    kind = component(protocol, file) if file in files(ROOMS[protocol]) else None
    if kind is None:
        known = members(protocol)
        raise BadInput(f"there is no {protocol} called {file!r}{nearest(file, known)}; there are: {', '.join(known)}")
    if not preset:
        return kind
    if preset not in presets(kind):
        there = f"; there are: {', '.join(presets(kind))}" if presets(kind) else ""
        raise BadInput(f"{file} has no preset {preset!r}{nearest(preset, presets(kind))}{there}")
    return getattr(kind, preset)


def _common_parts(old: Any, new: Any) -> dict[str, Any]:
    ours, theirs = hints(type(new)), hints(type(old))
    shared = [f.name for f in dataclasses.fields(new) if f.name in theirs and theirs[f.name] == ours[f.name]]
    return {name: getattr(old, name) for name in shared if is_component(getattr(old, name))}


# -- plain data ----------------------------------------------------------------------------------------


def to_plain(value: Any) -> Plain:
    """Return a component, Result or value as plain data, ready for JSON.

    Non-finite floats become the strings "nan", "inf" and "-inf"; arrays become nested lists.
    """
    if is_component(value):
        room = type(value).__module__.removeprefix(f"{_PACKAGE}.")
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": f"{room}:{type(value).__name__}", **fields}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist())
    if isinstance(value, np.generic):
        return to_plain(value.item())
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data: {value!r}")


def from_plain(plain: Plain, kind: Any = None) -> Any:
    """Return what ``to_plain`` was given. ``kind`` is the expected type where plain data alone is not enough.

    Raises:
        BadInput: a type outside robustscape, an unknown type or field, or a value of the wrong type.
    """
    if kind is Any:  # plain data is meant to stay it: a provenance's settings
        return plain
    if isinstance(plain, Mapping) and "type" in plain:
        return _component_from(plain)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if plain is None:
            return None
        kinds = [a for a in arguments if a is not type(None)]
        fitting = [a for a in kinds if _fits(plain, a)] or kinds
        return from_plain(plain, fitting[0])
    if origin is tuple:
        inner = arguments[0] if arguments else None
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(from_plain(item, inner) for item in plain)
        return tuple(from_plain(item, a) for item, a in zip(plain, arguments, strict=True))
    if origin in (list, Sequence):
        return [from_plain(item, arguments[0] if arguments else None) for item in plain]
    if origin in (dict, Mapping):
        return {key: from_plain(item, arguments[1]) for key, item in plain.items()}
    if kind is np.ndarray:
        return np.asarray(_numbers(plain))
    if kind is float and (isinstance(plain, int) or plain in _NON_FINITE) and not isinstance(plain, bool):
        return float(plain)
    if (kind in (bool, int, float, str) or origin is typing.Literal) and not _fits(plain, kind):
        raise BadInput(f"{_short(plain)} is not {_words(kind)}")
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        raise BadInput(f"{_short(plain)} is not a {kind.__name__}")
    return plain


def _short(plain: Plain) -> str:
    """Return plain data in one line of bounded length."""
    text = repr(plain)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return f"one of {', '.join(map(repr, typing.get_args(kind)))}"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]


def _numbers(plain: Plain) -> Plain:
    if isinstance(plain, list):
        return [_numbers(item) for item in plain]
    return float(plain) if isinstance(plain, str) else plain


def _fits(plain: Plain, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is typing.Literal:
        return plain in typing.get_args(kind)
    if origin in (tuple, list, Sequence):
        return isinstance(plain, list)
    if origin in (int, float):
        return isinstance(plain, (int, origin)) and not isinstance(plain, bool)
    return isinstance(origin, type) and isinstance(plain, origin)


def _component_from(plain: Mapping[str, Plain]) -> Any:
    room, _, name = str(plain["type"]).partition(":")
    path = room.split(".")
    if not all(part.isidentifier() and not part.startswith("__") for part in (*path, name)):
        raise BadInput(f"{plain['type']!r} is not the name of a component, such as 'attacks.pgd:PGD'")
    try:
        module = importlib.import_module(f"{_PACKAGE}.{room}")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith(_PACKAGE):
            raise
        raise BadInput(f"there is no room {room!r} in robustscape: {plain['type']!r}") from None
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.__name__):
        raise BadInput(f"there is no component {name!r} in robustscape.{room}")
    known = hints(kind)
    known = {f.name: known[f.name] for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, item in plain.items():
        if key == "type":
            continue
        if key not in known:
            raise BadInput(f"{plain['type']} has no field {key!r}{nearest(key, known)}")
        try:
            values[key] = from_plain(item, known[key])
        except BadInput as error:
            raise BadInput(f"{key}: {error}") from None
        except (TypeError, ValueError, AttributeError):
            raise BadInput(f"{key}: {_short(item)} is not of the form that {plain['type']} has there") from None
    try:
        return kind(**values)
    except TypeError as error:
        raise BadInput(f"{plain['type']}: {error}") from None


def _late_names() -> dict[str, Any]:
    """Names that modules import for the type checker alone."""
    return {"Streams": importlib.import_module(f"{_PACKAGE}.streams").Streams}
