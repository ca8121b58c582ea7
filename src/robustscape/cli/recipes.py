"""List the recipes: what `robustscape train` can be given."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass

from robustscape.cli.arguments import parse
from robustscape.cli.display import out
from robustscape.config import files, nearest
from robustscape.recipes.run import Run
from robustscape.types import BadInput


@dataclass(frozen=True, kw_only=True)
class _Recipes:
    """No options."""


def main(arguments: list[str]) -> None:
    """Print the name of every recipe and the first line of its documentation."""
    parse(_Recipes(), arguments, program="robustscape recipes", description=__doc__ or "")
    found = recipes()
    width = max(map(len, found), default=0)
    for name, recipe in found.items():
        out(f"{name:<{width}}  {(inspect.getdoc(recipe) or '').partition(chr(10))[0]}")


def recipes() -> dict[str, Callable[[], Run]]:
    """Return every recipe by its name: the public functions ``() -> Run`` that a file of the room defines."""
    found: dict[str, Callable[[], Run]] = {}
    for file in files("recipes"):
        module = importlib.import_module(f"robustscape.recipes.{file}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and not name.startswith("_") and value.__module__ == module.__name__:
                signature = inspect.signature(value)
                if signature.return_annotation in (Run, "Run") and not signature.parameters:
                    found[name] = value
    return found


def recipe(name: str) -> Run:
    """Return the Run of a recipe; hyphens stand for underscores.

    Raises:
        BadInput: there is no such recipe.
    """
    found = recipes()
    make = found.get(name.replace("-", "_"))
    if make is None:
        raise BadInput(f"there is no recipe {name!r}{nearest(name, found)}; `robustscape recipes` lists them")
    return make()
