"""Bring in a model: a run, a checkpoint, a function of somebody's package, or a timm model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustscape.config import from_plain, nearest
from robustscape.models._foreign import from_function, from_timm
from robustscape.models.normalise import Channels, Normalise, check_constants, normalise
from robustscape.results import read_run
from robustscape.types import Architecture, BadInput, Plain

_FORMS = (
    "a run's folder, a checkpoint (.safetensors, .pt, .pth), a function as package.module:function, "
    "or a timm model as timm:NAME"
)
_FILES = {".safetensors", ".pt", ".pth"}
_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_NESTS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


@dataclass(frozen=True, kw_only=True)
class _Known:
    """A file of weights and what it, or the run that it belongs to, says about them."""

    weights: Path
    architecture: Architecture | None = None
    image: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None


def load(
    source: str | Path,
    *,
    checkpoint: str = "best",
    architecture: Architecture | None = None,
    image: tuple[int, int, int] | None = None,
    classes: int | None = None,
    mean: Channels | None = None,
    std: Channels | None = None,
) -> nn.Module:
    """Return a model of pixels in [0, 1] to logits, in eval mode, float32, on the CPU.

    Nothing that a checkpoint holds is executed; ``package.module:function`` is imported and called, without
    arguments, and is looked for in the current directory too. A timm name with a tag, such as
    ``timm:resnet18.a1_in1k``, has those pretrained weights (timm downloads them) and, unless ``mean`` and
    ``std`` say otherwise, the normalisation that they were trained with; one without a tag is untrained.

    Args:
        source: A run's folder, a checkpoint, ``package.module:function`` or ``timm:NAME``.
        checkpoint: Which of a run's checkpoints: "best" on validation, "last", "best_on_test", "epoch-0010".
        architecture: What a checkpoint's weights belong to, where it does not say so itself.
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
        if name.startswith("timm:"):
            model = from_timm(name, image=image, classes=classes, normalised=mean is not None)
        else:
            model = from_function(name)
    else:
        known = _known(Path(source), checkpoint)
        architecture = architecture or known.architecture
        constants = getattr(architecture, "mean", None)
        if mean is not None and constants is not None:
            raise BadInput(f"{name} normalises inside already, with mean {constants}; leave out mean and std")
        image = image or known.image
        if classes is None and known.classes is not None:
            classes = len(known.classes)
        model = _from_weights(known.weights, architecture, image, classes)
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
    known = _known(Path(source), checkpoint)
    return {"architecture": known.architecture, "image": known.image, "classes": known.classes}


def _is_foreign(name: str) -> bool:
    """Return whether the name is that of somebody's code and not of a file."""
    return (name.startswith("timm:") or _FUNCTION.fullmatch(name) is not None) and not Path(name).exists()


def _known(path: Path, checkpoint: str) -> _Known:
    """Return what a run or a checkpoint says about itself."""
    if path.is_dir():
        return _known_run(path, checkpoint)
    if not path.is_file():
        if path.suffix in _FILES:
            raise BadInput(f"there is no checkpoint {path}")
        raise BadInput(f"there is no model {str(path)!r}: it must be {_FORMS}")
    if path.suffix != ".safetensors":
        return _Known(weights=path)
    import safetensors

    with _intact(path), safetensors.safe_open(path, framework="pt") as file:
        header = (file.metadata() or {}).get("robustscape")
    if header is None:
        return _Known(weights=path)
    try:
        plain = json.loads(header)
    except json.JSONDecodeError as error:
        raise BadInput(f"the header of {path} is not JSON: {error}") from None
    return _read(plain, path, said_in=path)


@contextmanager
def _intact(path: Path) -> Iterator[None]:
    """Say so where the block finds the safetensors file damaged."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        raise BadInput(f"{path} is not a safetensors file, or was cut short: {error}") from None


def _known_run(folder: Path, checkpoint: str) -> _Known:
    settings = folder / "run.json"
    if not settings.is_file():
        raise BadInput(f"{folder} is not a run of robustscape: there is no run.json in it")
    weights = folder / "checkpoints" / f"{checkpoint}.safetensors"
    if not weights.is_file():
        there = sorted({path.stem for path in weights.parent.glob("*.safetensors")} - {"resume"})
        kept = f"; there are: {', '.join(there)}" if there else " yet"
        raise BadInput(f"{folder} has no checkpoint {checkpoint!r}{nearest(checkpoint, there)}{kept}")
    return _read(read_run(folder), weights, said_in=settings)


def _read(plain: Plain, weights: Path, *, said_in: Path) -> _Known:
    """Read what ``run.json`` or a checkpoint's header says."""
    try:
        model = plain["architecture"] if "architecture" in plain else plain["run"]["model"]
        channels, height, width = plain["image"]
        classes = tuple(plain["classes"])
        architecture = from_plain(model)
    except KeyError as error:
        raise BadInput(f"{said_in} does not say what its model is: it has no {error}") from None
    except (TypeError, ValueError) as error:
        raise BadInput(f"{said_in} does not say what its model is: {error}") from None
    if not isinstance(architecture, Architecture):
        raise BadInput(f"{said_in} says that its model is a {type(architecture).__name__}, which is no architecture")
    return _Known(weights=weights, architecture=architecture, image=(channels, height, width), classes=classes)


# -- weights ---------------------------------------------------------------------------------------------


def _from_weights(
    weights: Path, architecture: Architecture | None, image: tuple[int, int, int] | None, classes: int | None
) -> nn.Module:
    """Build the architecture and give it the weights of the file."""
    if architecture is None or image is None or classes is None:
        raise BadInput(
            f"{weights} holds weights alone: give the architecture, the image's shape and the classes with it"
        )
    model = architecture.build(image=image, classes=classes, seed=0)
    own = model.state_dict()
    state = _unwrapped(_state(weights), own)
    problem = _difference(own, state)
    if problem:
        raise BadInput(f"{weights} does not hold a {type(architecture).__name__} of these settings: {problem}")
    model.load_state_dict(state)
    return model


def _state(path: Path) -> Mapping[str, Tensor]:
    """Read the tensors of a file, executing nothing that it holds."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        with _intact(path):
            return load_file(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a damaged pickle fails in any way it likes
        raise BadInput(
            f"{path} is damaged or holds more than tensors, and nothing in a checkpoint is executed; "
            "save model.state_dict() alone"
        ) from None
    while isinstance(state, Mapping) and (nest := next((n for n in _NESTS if isinstance(state.get(n), Mapping)), None)):
        state = state[nest]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BadInput(f"{path} holds no state dict, neither by itself nor as one of: {', '.join(_NESTS)}")
    return state


def _unwrapped(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that wrappers (DataParallel, torch.compile) put before every name."""
    state = dict(state)
    while state and not set(state) & set(own):
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _difference(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """Return how the first name that does not fit differs, "" where all fit."""
    for name, value in own.items():
        if name not in state:
            if name.endswith("num_batches_tracked"):  # older torch did not have it; unused with a momentum
                continue
            return f"{name!r} is missing"
        if state[name].shape != value.shape:
            return f"{name!r} has the shape {tuple(state[name].shape)}, not {tuple(value.shape)}"
    return next((f"{name!r} is unexpected" for name in state if name not in own), "")
