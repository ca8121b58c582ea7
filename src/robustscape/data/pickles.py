"""Read the arrays out of a pickle without unpickling it: nothing that a pickle names is imported or called.

The file is a program for a small stack machine. This is that machine with numbers, texts, containers and the few
calls that NumPy arrays are written as, which are recognised by name and done here; any other call is refused. The
standard library's own machine would look names up, and a damaged file can make it ask for all the memory there is.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from robustscape.data.archives import reason
from robustscape.types import BadInput

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_CALLS = {
    "_codecs encode": "encode",
    "__builtin__ bytes": "nothing",
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    **{f"numpy.{core}.multiarray _reconstruct": "reconstruct" for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray scalar": "scalar" for core in ("core", "_core")},
    **{f"numpy.{core}.numeric _frombuffer": "frombuffer" for core in ("core", "_core")},
}
_NUMBERS = re.compile(r"[|<>=]?(b1|[iu][1248]|f[248])")
_MOST_AXES = 64
_MARK = object()


def arrays(content: bytes | mmap.mmap, names: Sequence[str], what: str) -> dict[str, np.ndarray]:
    """Return some entries of a pickled dict: arrays of numbers, and lists of whole numbers as int64.

    Args:
        content: The whole file, of any protocol, Python 2's too.
        names: Keys of the entries that are wanted; the others are passed over.
        what: What to call the file in messages.

    Returns:
        Name to array, read-only.

    Raises:
        BadInput: a damaged file, one that calls anything else, or one without these entries.
    """
    try:
        found = _Machine().run(pickletools.genops(content))  # pyright: ignore[reportArgumentType] (an mmap reads as a file does)
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not a dict")
        plain = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in found.items()}
        if missing := [name for name in names if name not in plain]:
            raise ValueError(f"it has no entry {', '.join(missing)}")
        return {name: _array(plain[name]) for name in names}
    except BadInput as error:
        raise BadInput(f"{what} {error}") from None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError, RecursionError) as error:
        raise BadInput(f"{what} is not a pickle of arrays, or is damaged: {reason(error)}") from None


class _Call(str):
    """Name of one of the calls that are done here."""

    __slots__ = ()


class _Type:
    """A dtype, as its letters."""

    def __init__(self, code: object) -> None:
        if not isinstance(code, str):
            raise ValueError(f"a dtype is named by a {type(code).__name__}")
        if not _NUMBERS.fullmatch(code):
            raise BadInput(f"holds an array of {code[:20]!r} and not of numbers: it is not opened")
        self.code, self.order = code.lstrip("|<>="), code[0] if code[0] in "<>" else "="

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """An array, empty until its state comes."""

    def __init__(self) -> None:
        self.state: tuple[Any, ...] = ()

    def numpy(self) -> np.ndarray:
        shape, kind, fortran, raw = self.state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        dtype = kind.numpy()
        if len(shape) > _MOST_AXES or not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
            raise ValueError("an array has a shape that none can have")
        if len(raw) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(raw)} bytes do not make an array of shape {shape}")
        values = np.frombuffer(raw, dtype) if len(raw) else np.empty(0, dtype)
        return values.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), copy=False)


def _array(value: object) -> np.ndarray:
    if isinstance(value, _Array):
        return value.numpy()
    if isinstance(value, list) and all(type(item) is int for item in value):
        return np.array(value, dtype=np.int64)
    raise ValueError(f"an entry is a {type(value).__name__}, not an array or a list of whole numbers")


class _Machine:
    """The stack and the memo of one file."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, operations: Iterator[tuple[Any, Any, Any]]) -> object:
        """Carry the operations out and return what is left."""
        for operation, argument, _ in operations:
            self.do(operation.name, argument)
        return self.stack.pop()

    def do(self, name: str, argument: Any) -> None:
        """Carry one operation out."""
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _FIXED:
            stack.append(_FIXED[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS", "APPEND", "SETITEM"):
            self._collect(name)
        elif name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD"):
            self._call(name, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise BadInput(f"is more than arrays ({name}): it could run a program, and is not opened")

    def _collect(self, name: str) -> None:
        stack = self.stack
        if name in ("APPEND", "SETITEM"):
            items = stack[-1:] if name == "APPEND" else stack[-2:]
            del stack[-len(items) :]
        else:
            items = []
            while (item := stack.pop()) is not _MARK:
                items.append(item)
            items.reverse()
        if name in ("TUPLE", "LIST", "DICT"):
            pairs = _pairs(items) if name == "DICT" else ()
            stack.append(tuple(items) if name == "TUPLE" else items if name == "LIST" else dict(pairs))
        elif name.startswith("APPEND"):
            stack[-1].extend(items)
        else:
            stack[-1].update(_pairs(items))

    def _call(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(attribute, str):
                    raise ValueError("a call is not named by texts")
                argument = f"{module} {attribute}"
            if argument not in _CALLS:
                raise BadInput(f"asks for {argument[:60]!r}, which no array needs: it could run, and is not opened")
            stack.append(_Call(_CALLS[argument]))
            return
        given, target = stack.pop(), stack.pop() if name == "REDUCE" else stack[-1]
        if name == "REDUCE":
            stack.append(_made(target, given))
        elif isinstance(target, _Array):
            _, *state = given
            target.state = tuple(state)
        elif isinstance(target, _Type):
            target.order = given[1] if given[1] in ("<", ">") else "="
        else:
            raise ValueError(f"a {type(target).__name__} takes no state")


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Return keys and values in turn; a few tuples inside one another take longer than a life to hash."""
    if any(isinstance(key, tuple) for key in items[::2]):
        raise ValueError("a tuple is a key")
    return zip(items[::2], items[1::2], strict=True)


def _made(call: object, given: tuple[Any, ...]) -> Any:
    """Return what one of the known calls gives."""
    match call, given:
        case _Call(), _ if call == "reconstruct":
            return _Array()
        case _Call(), (code, *_) if call == "dtype":
            return _Type(code)
        case _Call(), (str() as text, *_) if call == "encode":
            return text  # bytes, once they are wanted: a thousand calls for one long text cost nothing
        case _Call(), () if call == "nothing":
            return b""
        case _Call(), (_Type() as kind, raw) if call == "scalar":
            array = _Array()
            array.state = ((), kind, False, raw)
            return array.numpy().item()
        case _Call(), (raw, _Type() as kind, shape, order) if call == "frombuffer":
            array = _Array()
            array.state = (shape if isinstance(shape, tuple) else (shape,), kind, order == "F", raw)
            return array
    raise ValueError("it makes a call that no array needs")
