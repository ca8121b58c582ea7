"""Models of other people's code: a function of a package, or a timm model."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from robustscape.config import nearest
from robustscape.models.normalise import normalise
from robustscape.types import BadInput


@contextmanager
def _from_here() -> Iterator[None]:
    """Import from the current directory first, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def from_function(name: str) -> nn.Module:
    """Return what ``package.module:function`` returns, looked for in the current directory too.

    Raises:
        BadInput: no such module or function, one that wants arguments, or one that returns no module.
    """
    module_name, _, function_name = name.partition(":")
    with _from_here():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
                raise
            where = "neither in the current directory nor among the installed packages"
            raise BadInput(f"there is no module {error.name!r} for {name!r}, {where}") from None
        function = getattr(module, function_name, None)
        if not callable(function):
            raise BadInput(f"{module_name} has no function {function_name!r}{nearest(function_name, vars(module))}")
        try:
            inspect.signature(function).bind()
        except TypeError as error:
            raise BadInput(f"{name} is called without arguments, but: {error}") from None
        model = function()
    if not isinstance(model, nn.Module):
        raise BadInput(f"{name} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def from_timm(name: str, *, image: tuple[int, int, int] | None, classes: int | None, normalised: bool) -> nn.Module:
    """Return the timm model ``timm:NAME``; with a tag in its name its pretrained weights and normalisation.

    Args:
        name: The name, ``timm:`` included.
        image: Shape of an image, (C, H, W), None for the model's own number of channels.
        classes: Number of classes, None for the model's own.
        normalised: Whether the caller normalises, so that the pretrained constants are left out.

    Raises:
        BadInput: timm cannot be imported, has no such model, or cannot get its weights.
    """
    try:
        timm = importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise BadInput(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from None
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch says it so
        raise BadInput(
            f"{name} needs timm and torchvision, which cannot be imported beside this torch: {error}"
        ) from None
    wanted = name.removeprefix("timm:")
    bare, _, tag = wanted.partition(".")
    if bare not in timm.list_models():
        raise BadInput(f"timm has no model {bare!r}{nearest(bare, timm.list_models())}")
    given: dict[str, int] = {}
    if classes is not None:
        given["num_classes"] = classes
    if image is not None:
        given["in_chans"] = image[0]
    try:
        model = timm.create_model(wanted, pretrained=bool(tag), **given)
    except (RuntimeError, OSError, ValueError) as error:  # an unknown tag, or weights that it cannot download
        raise BadInput(f"timm cannot make {wanted}: {str(error).splitlines()[0]}") from None
    if tag and not normalised:
        trained = model.pretrained_cfg
        channels = image[0] if image is not None else len(trained["mean"])
        model = nn.Sequential(normalise(tuple(trained["mean"]), tuple(trained["std"]), channels), model)
    return model
