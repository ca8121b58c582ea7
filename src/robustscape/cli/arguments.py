"""The command line of a component: its dataclass is the parser.

tyro does the parsing; what is added here are three rules and a pass before it. A field typed by a protocol
gets the options of the component that stands there (``--objective.attack.threat.eps``), numbers may be
fractions (``8/255``), ``none`` is spelled small, and ``--PATH NAME`` puts the component called NAME at PATH
before tyro sees the rest (``--weights awp --weights.gamma 0.01``), in any order.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

import tyro
from tyro import constructors as make

from robustscape.config import hints, is_component, members, named, nearest, presets, protocol_of
from robustscape.types import BadInput

T = TypeVar("T")

SPREAD = {"spread": True}
"""Metadata of a field whose options stand beside those of its owner: ``run`` gives --seed, not --run.seed."""

_CHOICE = "__choice"


class _Refused(Exception):
    """Carries a BadInput through tyro, which would put any ValueError into its box."""


def parse(default: T, arguments: Sequence[str], *, program: str, description: str) -> T:
    """Return ``default`` as the arguments change it; tyro exits with 0 after --help and with 2 after a mistake.

    Args:
        default: A component: a dataclass whose fields are plain values and components.
        arguments: What stood on the command line.
        program: What help calls the program, for example "robustscape train mnist_at".
        description: What help says first.

    Raises:
        BadInput: a component that does not exist, or a value that a component refuses.
    """
    default, rest = _swap(default, list(arguments))
    registry = make.ConstructorRegistry()
    registry.struct_rule(_component_rule)
    for rule in (_float_rule, _none_rule):
        registry.primitive_rule(rule)
    try:
        return tyro.cli(
            type(default),  # pyright: ignore[reportArgumentType]
            default=default,
            args=rest,
            prog=program,
            description=description,
            registry=registry,
        )
    except _Refused as refused:
        raise BadInput(str(refused)) from None


# -- rules of tyro -------------------------------------------------------------------------------------


def _component_rule(info: make.StructTypeInfo) -> make.StructConstructorSpec | None:
    """Type each field by the class of its default; every documented field gets its documentation."""
    value = info.default
    if not is_component(value):
        return None
    kind, kinds, docs = type(value), hints(type(value)), field_docs(type(value))
    fields = []
    for field in dataclasses.fields(kind):
        now, help_ = getattr(value, field.name), docs.get(field.name, "")
        if choices := _choices(kinds[field.name], now):
            typ = Annotated[str, tyro.conf.arg(name=field.name, metavar="{" + ",".join(choices) + "}")]
            fields.append(make.StructFieldSpec(field.name + _CHOICE, typ, _name_of(kinds[field.name], now), help_))  # pyright: ignore[reportArgumentType]
        if _spread(field):
            typ = Annotated[type(now), tyro.conf.arg(name="")]
            fields.append(make.StructFieldSpec(field.name, typ, now, help_))  # pyright: ignore[reportArgumentType]
        elif is_component(now):
            fields.append(make.StructFieldSpec(field.name, type(now), now, f"{help_} {_headline(now)}"))
        elif not choices:
            fields.append(make.StructFieldSpec(field.name, kinds[field.name], now, help_))

    def build(**values: Any) -> Any:
        own = {name: item for name, item in values.items() if not name.endswith(_CHOICE)}
        try:
            return dataclasses.replace(value, **own)
        except BadInput as error:
            raise _Refused(str(error)) from None

    return make.StructConstructorSpec(instantiate=build, fields=tuple(fields))


def _float_rule(info: make.PrimitiveTypeInfo) -> make.PrimitiveConstructorSpec[float] | None:
    if info.type is not float:
        return None
    return make.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT",
        instance_from_str=lambda words: number(words[0]),
        is_instance=lambda x: isinstance(x, (int, float)) and not isinstance(x, bool),
        str_from_instance=lambda x: [number_words(x)],
    )


def _none_rule(info: make.PrimitiveTypeInfo) -> make.PrimitiveConstructorSpec[None] | None:
    if info.type is not type(None):
        return None
    return make.PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        choices=("none", "None"),
        instance_from_str=lambda words: None,
        is_instance=lambda x: x is None,
        str_from_instance=lambda x: ["none"],
    )


def number(text: str) -> float:
    """Return the number that a text stands for, a fraction such as "8/255" included.

    Raises:
        ValueError: it is not a number.
    """
    above, slash, below = text.partition("/")
    try:
        value = float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number, such as 0.1 or 8/255") from None
    if value != value:
        raise ValueError(f"{text!r} is not a number that can be meant here")
    return value


def number_words(value: float) -> str:
    """Return a number as a person writes it: 8/255 rather than 0.03137254901960784."""
    plain = f"{value:.10g}"
    levels = value * 255
    if len(plain) > 8 and abs(levels) < 1000 and abs(levels - round(levels)) < 1e-9:
        return f"{round(levels)}/255"
    return str(value) if isinstance(value, int) else plain


def _headline(value: Any) -> str:
    """Return the class of a component and the first line of its documentation."""
    first = (inspect.getdoc(type(value)) or "").partition("\n")[0]
    return f"{type(value).__name__}: {first}"


def field_docs(kind: type) -> dict[str, str]:
    """Return the text of every entry of the ``Attributes:`` section of a class's docstring, on one line each."""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*\n?|\n)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}


# -- a component by its name ---------------------------------------------------------------------------


def _swap(default: T, tokens: list[str]) -> tuple[T, list[str]]:
    """Carry out every ``--PATH NAME`` that names a component, outer paths first; return the rest."""
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
                    raise BadInput(f"{option} needs a name, one of {', '.join(_choices(*slot))}")
                name = tokens.pop(position + 1)
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
        found |= _parts(item) if _spread(field) else {field.name: (kinds[field.name], item)}
    return found


def _spread(field: dataclasses.Field[Any]) -> bool:
    return bool(field.metadata.get("spread"))


def _slot(value: Any, path: Sequence[str]) -> tuple[Any, Any] | None:
    """Return annotation and value of the field at a path, None unless a component can be chosen for it."""
    for name in path[:-1]:
        value = _parts(value).get(name, (None, None))[1]
    found = _parts(value).get(path[-1])
    return found if found and _choices(*found) else None


def _put(value: Any, path: Sequence[str], new: Any) -> Any:
    """Return ``value`` with another component at a path that leads to a slot."""
    head, *rest = path
    if isinstance(value, Mapping):
        return {**value, head: _put(value[head], rest, new) if rest else new}
    for field in dataclasses.fields(value):
        if _spread(field) and head in _parts(getattr(value, field.name)):
            return _replaced(value, field.name, _put(getattr(value, field.name), path, new))
    return _replaced(value, head, _put(getattr(value, head), rest, new) if rest else new)


def _replaced(value: Any, name: str, new: Any) -> Any:
    return dataclasses.replace(value, **{name: new})


def _choices(annotation: Any, now: Any) -> tuple[str, ...]:
    """Return the names that ``--PATH NAME`` takes for a field; none where no component can be chosen."""
    if protocol := protocol_of(annotation):
        kinds = members(protocol).items()
        names = [name for file, kind in kinds for name in (file, *(f"{file}.{preset}" for preset in presets(kind)))]
    else:
        names = list(_alternatives(annotation, now))
    return (*names, "none") if names and type(None) in typing.get_args(annotation) else tuple(names)


def _alternatives(annotation: Any, now: Any) -> dict[str, type]:
    """Return the components that may stand in a field that no room is for, by class name in small letters.

    A field typed by dataclasses (``CropFlip | None``) takes these; one typed as Callable takes the others of
    the file that its present one is from.
    """
    kinds = [kind for kind in typing.get_args(annotation) if dataclasses.is_dataclass(kind)]
    if typing.get_origin(annotation) is collections.abc.Callable and is_component(now):
        module = inspect.getmodule(type(now))
        own = [kind for kind in vars(module).values() if isinstance(kind, type) and kind.__module__ == module.__name__]  # pyright: ignore[reportOptionalMemberAccess]
        kinds = [kind for kind in own if dataclasses.is_dataclass(kind)]
    return {_small(kind): kind for kind in kinds if isinstance(kind, type)}


def _small(kind: type) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()


def _name_of(annotation: Any, now: Any) -> str:
    """Return the name by which a field's present component would be chosen."""
    if now is None:
        return "none"
    return type(now).__module__.rpartition(".")[2] if protocol_of(annotation) else _small(type(now))


def _chosen(annotation: Any, now: Any, name: str, option: str) -> Any:
    """Return the component of that name for a field in which ``now`` stands."""
    choices = _choices(annotation, now)
    if name in ("none", "None"):
        if "none" in choices:
            return None
        raise BadInput(f"{option} cannot be none; there are: {', '.join(choices)}")
    if protocol := protocol_of(annotation):
        return named(protocol, name, old=now)
    kind = _alternatives(annotation, now).get(name.replace("-", "_"))
    if kind is None:
        raise BadInput(f"{option} cannot be {name!r}{nearest(name, choices)}; there are: {', '.join(choices)}")
    return kind()
