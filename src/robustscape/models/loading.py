"""Bring in a model: a run, a checkpoint, a function of somebody's package, a timm or a torchvision model."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustscape.config import from_plain, nearest
from robustscape.models import _foreign
from robustscape.models.checkpoints import Loaded, from_weights, with_weights
from robustscape.models.normalise import Channels, Normalise, check_constants, normalise
from robustscape.models.reading import FILES, intact, read
from robustscape.results import read_run
from robustscape.types import Architecture, BadInput, Plain

_FORMS = (
    "a run's folder, a checkpoint (.safetensors, .pt, .pth), a function as package.module:function, "
    "a timm model as timm:NAME, or a torchvision model as torchvision:NAME"
)
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True, kw_only=True)
class Known:
    """A file of weights and what it, or the run that it belongs to, says about them.

    Attributes:
        weights: The file.
        architecture: The network that they are of, None where that is not said.
        image: Shape of its images, (C, H, W), likewise.
        classes: Names of its classes, likewise.
    """

    weights: Path
    architecture: Architecture | None = None
    image: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None


def load(
    source: str | Path,
    *,
    checkpoint: str = "best",
    architecture: Architecture | None = None,
    weights: str | Path | None = None,
    image: tuple[int, int, int] | None = None,
    classes: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> nn.Module:
    """Return a model of pixels in [0, 1] to logits, in eval mode, float32, on the CPU.

    Nothing that a checkpoint holds is executed; ``package.module:function`` is imported and called, without
    arguments, and is looked for in the current directory too. A timm name with a tag, such as
    ``timm:resnet18.a1_in1k``, or a torchvision name with one, such as ``torchvision:resnet18.IMAGENET1K_V1``, has
    those pretrained weights (the library downloads them) and, unless ``mean`` and ``std`` say otherwise, the
    normalisation that they were trained with; one without a tag is untrained.

    A checkpoint that does not say its network is taken for the one that fits its weights' shapes: a network of this
    room, under its own names or those of other authors. Weights under unknown names are taken in their order where
    every shape agrees. A mean and std that it holds become the model's. All of this is said in one warning.

    Args:
        source: A run's folder, a checkpoint, ``package.module:function``, ``timm:NAME`` or ``torchvision:NAME``.
        checkpoint: Which of a run's checkpoints: "best" on validation, "last", "best_on_test", "epoch-0010"; or
            which of the state dicts in a file, by its key, if there is one of that name.
        architecture: What a checkpoint's weights belong to, where it does not say so itself.
        weights: A checkpoint whose weights a function's, timm's or torchvision's model gets.
        image: Shape of an image, (C, H, W), where the source does not say.
        classes: Number of classes, where the source does not say.
        mean: With ``std``, a normalisation put in front of a model that has none: what is subtracted from
            each channel, in pixel units of [0, 1].
        std: What each channel is divided by.

    Returns:
        The model: (N, C, H, W) to (N, K).

    Raises:
        BadInput: a source that is not there, damaged or of another architecture, or settings that
            contradict each other.
    """
    check_constants(mean, std)
    name = str(source)
    if _is_foreign(name):
        if architecture is not None:
            raise BadInput(f"{name} is a model whole: an architecture can only be given with a checkpoint")
        normalised = mean is not None or weights is not None
        model = _foreign.made(name, image=image, classes=classes, normalised=normalised)
        found = Loaded(model=model)
        if weights is not None:
            found = with_weights(model, read(_file(Path(weights)), checkpoint), name)
    else:
        if weights is not None:
            raise BadInput(f"{name} has weights of its own: weights are for a model that a function makes")
        known = stated(Path(source), checkpoint)
        image = image or known.image
        if classes is None and known.classes is not None:
            classes = len(known.classes)
        held = read(known.weights, checkpoint)
        found = from_weights(held, architecture or known.architecture, image, classes)
    if mean is not None and found.inside:
        raise BadInput(f"{name} normalises inside already, {found.inside}; leave out mean and std")
    if found.assumed:
        warnings.warn(f"{weights or name}: {'; '.join(found.assumed)}", stacklevel=2)
    model = found.model
    if mean is not None:
        front = normalise(mean, std, image[0]) if image else Normalise(mean, std)
        model = nn.Sequential(front, model)
    return model.to("cpu", torch.float32).eval()


def describe(source: str | Path, *, checkpoint: str = "best") -> dict[str, Any]:
    """Return what a source says about itself without building it; None for what it does not say.

    A run or checkpoint that is not there or is damaged is refused as in ``load``.

    Returns:
        "architecture" (an ``Architecture``), "image" as (C, H, W) and "classes" as a tuple of names: known for
        runs and checkpoints that robustscape wrote.
    """
    if _is_foreign(str(source)):
        return {"architecture": None, "image": None, "classes": None}
    known = stated(Path(source), checkpoint)
    return {"architecture": known.architecture, "image": known.image, "classes": known.classes}


def _is_foreign(name: str) -> bool:
    """Return whether the name is that of somebody's code and not of a file."""
    code = name.startswith(_foreign.LIBRARIES) or _FUNCTION.fullmatch(name) is not None
    return code and not Path(name).exists()


# -- what a source says of itself ------------------------------------------------------------------------


def stated(path: Path, checkpoint: str) -> Known:
    """Return what a run or a checkpoint says about itself; None for what it does not say.

    Args:
        path: A run's folder or a file of weights.
        checkpoint: Which of a run's checkpoints.

    Raises:
        BadInput: it is not there, or is damaged.
    """
    if path.is_dir():
        return _known_run(path, checkpoint)
    if not path.is_file():
        if path.suffix in FILES:
            raise BadInput(f"there is no checkpoint {path}")
        raise BadInput(f"there is no model {str(path)!r}: it must be {_FORMS}")
    if path.suffix != ".safetensors":
        return Known(weights=path)
    import safetensors

    with intact(path), safetensors.safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("robustscape")
    if header is None:
        return Known(weights=path)
    try:
        plain = json.loads(header)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"the header of {path} is not JSON: {error}") from None
    return _read(plain, path, said_in=path)


def _known_run(folder: Path, checkpoint: str) -> Known:
    settings = folder / "run.json"
    if not settings.is_file():
        raise BadInput(f"{folder} is not a run of robustscape: there is no run.json in it")
    weights = folder / "checkpoints" / f"{checkpoint}.safetensors"
    if not weights.is_file():
        there = sorted({path.stem for path in weights.parent.glob("*.safetensors")} - {"resume"})
        kept = f"; there are: {', '.join(there)}" if there else " yet"
        raise BadInput(f"{folder} has no checkpoint {checkpoint!r}{nearest(checkpoint, there)}{kept}")
    return _read(read_run(folder), weights, said_in=settings)


def _read(plain: Plain, weights: Path, *, said_in: Path) -> Known:
    """Read what ``run.json`` or a checkpoint's header says."""
    try:
        model = plain["architecture"] if "architecture" in plain else plain["run"]["model"]
        channels, height, width = (_whole(size) for size in plain["image"])
        classes = tuple(map(str, plain["classes"]))
        architecture = from_plain(model)
    except KeyError as error:
        raise BadInput(f"{said_in} does not say what its model is: it has no {error}") from None
    except (TypeError, ValueError) as error:
        raise BadInput(f"{said_in} does not say what its model is: {error}") from None
    if not isinstance(architecture, Architecture):
        raise BadInput(f"{said_in} says that its model is a {type(architecture).__name__}, which is no architecture")
    return Known(weights=weights, architecture=architecture, image=(channels, height, width), classes=classes)


def _whole(size: Plain) -> int:
    if not isinstance(size, int):
        raise BadInput(f"{size!r} is not a size of an image in pixels")
    return size


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BadInput(f"there is no checkpoint {path}")
    return path
