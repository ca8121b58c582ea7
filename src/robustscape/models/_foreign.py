"""Models of other people's code: a function of a package, a timm model, a torchvision model."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from robustscape.config import nearest
from robustscape.models.normalise import normalise
from robustscape.types import BadInput

LIBRARIES = ("timm:", "torchvision:")
"""What the name of a library's model begins with."""


def made(name: str, *, image: tuple[int, int, int] | None, classes: int | None, normalised: bool) -> nn.Module:
    """Return the model of a function or a library; with a tag in its name its pretrained weights and normalisation.

    Args:
        name: ``package.module:function``, ``timm:NAME``, ``timm:NAME.TAG``, ``torchvision:NAME`` or
            ``torchvision:NAME.TAG``.
        image: Shape of an image, (C, H, W), None for the model's own number of channels.
        classes: Number of classes, None for the model's own.
        normalised: Whether the caller normalises, so that pretrained constants are left out.

    Raises:
        BadInput: the function or library cannot be imported, or does not make the model.
    """
    if name.startswith("timm:"):
        return from_timm(name, image=image, classes=classes, normalised=normalised)
    if name.startswith("torchvision:"):
        return from_torchvision(name, image=image, classes=classes, normalised=normalised)
    return from_function(name)


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


def _library(name: str) -> tuple[ModuleType, str, str]:
    """Return the library that a name begins with, and the model's name and tag.

    Raises:
        BadInput: it cannot be imported.
    """
    library, _, wanted = name.partition(":")
    try:
        module = importlib.import_module(library)
    except ModuleNotFoundError as error:
        raise BadInput(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from None
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch says it so
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"{name} needs timm and torchvision, which cannot be imported beside this torch: {reason}"
            if library == "timm"
            else f"{name} needs torchvision, which cannot be imported beside this torch: {reason}"
        ) from None
    bare, _, tag = wanted.partition(".")
    return module, bare, tag


def from_timm(name: str, *, image: tuple[int, int, int] | None, classes: int | None, normalised: bool) -> nn.Module:
    """Return the timm model ``timm:NAME``; see ``made``.

    Raises:
        BadInput: timm cannot be imported, has no such model, or cannot get its weights.
    """
    timm, bare, tag = _library(name)
    if bare not in timm.list_models():
        raise BadInput(f"timm has no model {bare!r}{nearest(bare, timm.list_models())}")
    given: dict[str, int] = {}
    if classes is not None:
        given["num_classes"] = classes
    if image is not None:
        given["in_chans"] = image[0]
    wanted = name.removeprefix("timm:")
    try:
        model = timm.create_model(wanted, pretrained=bool(tag), **given)
    except (RuntimeError, OSError, ValueError) as error:  # an unknown tag, or weights that it cannot download
        raise BadInput(f"timm cannot make {wanted}: {str(error).splitlines()[0]}") from None
    if tag and not normalised:
        trained = model.pretrained_cfg
        model = _behind(model, trained["mean"], trained["std"], image)
    return model


def from_torchvision(
    name: str, *, image: tuple[int, int, int] | None, classes: int | None, normalised: bool
) -> nn.Module:
    """Return the torchvision classifier ``torchvision:NAME``; see ``made``. A tag is that of its weights.

    Raises:
        BadInput: torchvision cannot be imported, has no such classifier, cannot get its weights, or images have
            not the 3 channels that its models take.
    """
    _, bare, tag = _library(name)
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if bare not in known:
        raise BadInput(f"torchvision has no classifier {bare!r}{nearest(bare, known)}")
    if image is not None and image[0] != 3:
        raise BadInput(f"torchvision's models take images of 3 channels, not {image[0]}")
    tags = list(models.get_model_weights(bare).__members__)
    if tag and tag not in tags:
        raise BadInput(
            f"torchvision has no weights {tag!r} of {bare}{nearest(tag, tags)}; there are: {', '.join(tags)}"
        )
    given: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    try:
        model = models.get_model(bare, weights=tag or None, **given)
    except (RuntimeError, OSError, ValueError) as error:  # pretrained for other classes, or no download
        raise BadInput(f"torchvision cannot make {name.partition(':')[2]}: {str(error).splitlines()[0]}") from None
    if tag and not normalised:
        trained = models.get_model_weights(bare)[tag].transforms()
        model = _behind(model, trained.mean, trained.std, image)
    return model


def _behind(model: nn.Module, mean: Any, std: Any, image: tuple[int, int, int] | None) -> nn.Module:
    """Return the model behind the normalisation that it was trained with."""
    channels = image[0] if image is not None else len(mean)
    return nn.Sequential(normalise(tuple(mean), tuple(std), channels), model)
