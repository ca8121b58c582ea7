"""From the weights in somebody's file to a model: the network that is given, or the one that they fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from robustscape.models.families import Guess, guesses, in_words
from robustscape.models.mapping import Constants, Fitted, State, fitted, layout_of, unwrapped, without_constants
from robustscape.models.normalise import Normalise
from robustscape.models.reading import Weights
from robustscape.types import Architecture, BadInput

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""

_SIDE = 32  # of images where the network does not depend on it


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model and what is known of it.

    Attributes:
        model: The model.
        inside: How it normalises pixels itself, in words; "" for not at all, or where that is not known.
        assumed: What was assumed to bring it in, a clause each.
    """

    model: nn.Module
    inside: str = ""
    assumed: tuple[str, ...] = ()


def with_weights(model: nn.Module, weights: Weights, name: str) -> Loaded:
    """Give somebody's model the weights of a file, and what these normalise pixels by.

    Args:
        model: The model; its own weights are replaced.
        weights: What the file holds.
        name: What the model is called.

    Raises:
        BadInput: they are of another network.
    """
    own = model.state_dict()
    state, constants = without_constants(unwrapped(weights.state, own), own)
    found = fitted(own, state, ordered=weights.ordered)
    if found.problem:
        raise BadInput(f"{weights.path} does not hold the weights of {name}: {found.problem}")
    _put(model, found.state, weights.path)
    assumed = [*_chosen(weights), *_by_order(found)]
    if constants is None:
        return Loaded(model=model, assumed=tuple(assumed))
    front = nn.Sequential(Normalise(*constants), model)
    return Loaded(model=front, inside=f"by {_numbers(constants)}", assumed=(*assumed, *_held(constants)))


def from_weights(
    weights: Weights, architecture: Architecture | None, image: Shape | None, classes: int | None
) -> Loaded:
    """Build a network and give it the weights of a file.

    Args:
        weights: What the file holds.
        architecture: The network; None for the one that fits the shapes of the weights.
        image: Shape of an image; None where the weights tell.
        classes: Number of classes; None where the weights tell.

    Raises:
        BadInput: they are of another network, or it is not said of which images.
    """
    path = weights.path
    state, constants = without_constants(unwrapped(weights.state))
    if architecture is None:
        architecture, model, found, assumed = _recognised(weights, state, image, classes, constants)
    else:
        if image is None or classes is None:
            raise BadInput(f"{path} holds weights alone: give the image's shape and the classes with the architecture")
        assumed = _unlike(architecture, state)
        architecture = _normalising(path, architecture, constants)
        model = _built(path, architecture, image, classes)
        found = fitted(model.state_dict(), state, ordered=weights.ordered)
        if found.problem:
            kind = type(architecture).__name__
            raise BadInput(f"{path} does not hold a {kind} of these settings: {found.problem}")
    _put(model, found.state, path)
    assumed += [*_chosen(weights), *_by_order(found), *_held(constants)]
    return Loaded(model=model, inside=_inside(architecture), assumed=tuple(assumed))


def _recognised(
    weights: Weights, state: State, image: Shape | None, classes: int | None, constants: Constants | None
) -> tuple[Architecture, nn.Module, Fitted, list[str]]:
    """Return the network that weights belong to, also built, the weights under its names, and what that assumes."""
    path, problem = weights.path, ""
    for guess in guesses(state):
        architecture = _normalising(path, guess.architecture, constants)
        shape = _shape(path, guess, image)
        model = _built(path, architecture, shape, guess.classes)
        found = fitted(model.state_dict(), state, ordered=weights.ordered)
        if found.problem:
            problem = problem or f": nearest is a {in_words(guess.architecture)}, but {found.problem}"
            continue
        taken = f"{path} is taken for a {in_words(architecture)}"
        if image is not None and image[0] != shape[0]:
            raise BadInput(f"{taken}, whose images have {shape[0]} channels, not {image[0]}")
        if classes is not None and classes != guess.classes:
            raise BadInput(f"{taken}, which tells {guess.classes} classes apart, not {classes}")
        layout = layout_of(state)
        whose = f" in the form of {layout.whose}" if layout and layout.fields else ""
        said = f"taken for a {in_words(architecture)}{whose} with {guess.classes} classes, by the shapes of its weights"
        return architecture, model, found, [f"{said}; give its architecture if it is another"]
    raise BadInput(
        f"{path} holds weights alone, which fit no network of robustscape{problem}; give its architecture, or the "
        "function that makes its network and these as weights"
    )


def _shape(path: Path, guess: Guess, image: Shape | None) -> Shape:
    """Return the shape of an image to build a guess for."""
    if guess.channels is None and image is None:
        raise BadInput(f"{path} holds weights alone, which do not tell the shape of an image; give it with them")
    side = guess.side or _SIDE
    channels, *sides = image or (0, side, side)
    return (guess.channels or channels, sides[0], sides[1])


def _built(path: Path, architecture: Architecture, image: Shape, classes: int) -> nn.Module:
    try:
        return architecture.build(image=image, classes=classes, seed=0)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # sizes that nothing can be built for
        reason = str(error).partition("\n")[0][:200]
        raise BadInput(f"the network that {path} is for cannot be built: {reason}") from None


def _put(model: nn.Module, state: State, path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:  # a network of somebody's may look at its weights itself
        reason = " ".join(str(error).split())[:300]
        raise BadInput(f"{path} does not hold the weights of this network: {reason}") from None


# -- normalisation, and what is said ---------------------------------------------------------------------


def _normalising(path: Path, architecture: Architecture, constants: Constants | None) -> Architecture:
    """Return the architecture with the mean and std that its checkpoint holds."""
    if constants is None:
        return architecture
    if inside := _inside(architecture):
        mean, std = getattr(architecture, "mean", None), getattr(architecture, "std", None)
        if mean is None or std is None or not (close(mean, constants[0]) and close(std, constants[1])):
            raise BadInput(f"{path} normalises by {_numbers(constants)}, but the architecture {inside}")
        return architecture
    return replace(architecture, mean=constants[0], std=constants[1])  # pyright: ignore[reportArgumentType]


def close(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether constants, a number for each channel or one for all, are the same but for rounding."""
    size = max(len(one), len(other))
    one, other = ((*values,) * (size // len(values)) for values in (one, other))
    return len(one) == len(other) and all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(one, other, strict=True))


def _inside(architecture: Architecture) -> str:
    """Return how an architecture normalises pixels, "" for not at all."""
    if getattr(architecture, "per_image", False):
        return "by every image's own mean and std"
    mean, std = getattr(architecture, "mean", None), getattr(architecture, "std", None)
    return "" if mean is None or std is None else f"by {_numbers((mean, std))}"


def _numbers(constants: Constants) -> str:
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in constants)
    return f"mean {mean} and std {std}"


def _unlike(architecture: Architecture, state: State) -> list[str]:
    """Say where the architecture given is not that of the authors of these names in what shapes do not tell."""
    layout = layout_of(state)
    fields = layout.fields if layout else {}
    other = [f"{name}={value!r}" for name, value in fields.items() if getattr(architecture, name, value) != value]
    if layout is None or not other:
        return []
    return [f"its names are those of {layout.whose}, whose networks have {', '.join(other)}, unlike the one given"]


def _chosen(weights: Weights) -> list[str]:
    if not weights.others:
        return []
    return [f"of its state dicts {weights.nest!r} is taken, not {', '.join(map(repr, weights.others))}"]


def _by_order(found: Fitted) -> list[str]:
    if found.by != "order":
        return []
    return ["its names are others than the network's: its weights are taken in their order, in which all shapes agree"]


def _held(constants: Constants | None) -> list[str]:
    return [] if constants is None else [f"pixels are normalised by the {_numbers(constants)} that it holds"]
