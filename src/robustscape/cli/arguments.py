"""The command line of a component: its dataclass is the parser.

tyro does the parsing; what is added here are three rules and a pass before it. A field typed by a protocol
gets the options of the component that stands there (``--objective.attack.threat.eps``), one for several of a
protocol takes their names and the options of each (``--watch.measurements flatness,slices --watch.slices.width 2``),
numbers may be fractions (``8/255``), ``none`` is spelled small, and ``--PATH NAME`` puts the component called NAME at
PATH before tyro sees the rest (``--weights awp --weights.gamma 0.01``), in any order.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import tyro
from tyro import constructors as make

from robustscape.cli.components import by_name, choices, file_of, name_of, several, spread, swap
from robustscape.config import hints, is_component
from robustscape.types import BadInput

T = TypeVar("T")

_CHOICE, _ONE = "__choice", "__one_"


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
    default, rest = swap(default, list(arguments))
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
        if names := choices(kinds[field.name], now):
            typ = Annotated[str, tyro.conf.arg(name=field.name, metavar="{" + ",".join(names) + "}")]
            fields.append(make.StructFieldSpec(field.name + _CHOICE, typ, name_of(kinds[field.name], now), help_))  # pyright: ignore[reportArgumentType]
        if several(kinds[field.name]):
            for name, one in by_name(now).items():
                typ = Annotated[type(one), tyro.conf.arg(name=name)]
                fields.append(make.StructFieldSpec(f"{field.name}{_ONE}{name}", typ, one, _headline(one)))  # pyright: ignore[reportArgumentType]
        elif spread(field):
            typ = Annotated[type(now), tyro.conf.arg(name="")]
            fields.append(make.StructFieldSpec(field.name, typ, now, help_))  # pyright: ignore[reportArgumentType]
        elif is_component(now):
            fields.append(make.StructFieldSpec(field.name, type(now), now, f"{help_} {_headline(now)}"))
        elif not names:
            typ = kinds[field.name]
            if option := field.metadata.get("option"):  # a word that no field can be called, such as "from"
                typ = Annotated[typ, tyro.conf.arg(name=option)]
            fields.append(make.StructFieldSpec(field.name, typ, now, help_))  # pyright: ignore[reportArgumentType]

    def build(**values: Any) -> Any:
        own = {name: item for name, item in values.items() if not name.endswith(_CHOICE) and _ONE not in name}
        for name in {name.partition(_ONE)[0] for name in values if _ONE in name}:
            own[name] = tuple(values.get(f"{name}{_ONE}{file_of(one)}", one) for one in getattr(value, name))
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
    return f"{type(value).__name__}: {first.replace('``', '')}"


def field_docs(kind: type) -> dict[str, str]:
    """Return the text of every entry of the ``Attributes:`` section of a class's docstring, on one line each."""
    section = re.search(r"^Attributes:\n((?:[ ]{4}.*\n?|\n)*)", inspect.getdoc(kind) or "", re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in entries}
