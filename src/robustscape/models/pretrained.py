"""Networks that begin with weights trained before, on the same classes or on others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from robustscape.models.checkpoints import close
from robustscape.models.families import in_words
from robustscape.models.loading import Known, stated
from robustscape.models.mapping import Constants, Fitted, fitted, unwrapped, without_constants
from robustscape.models.reading import Weights, read
from robustscape.types import Architecture, BadInput

_CHECKPOINT = "last"
"""Which of a run's checkpoints a training begins with: another is named by its file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pretrained:
    """Weights that a training begins with.

    Attributes:
        source: Run or checkpoint, as it was named.
        weights: What its file holds.
        known: What it says about them.
    """

    source: str
    weights: Weights
    known: Known


def read_pretrained(source: str, architecture: Architecture) -> Pretrained:
    """Read the weights of a run (its last checkpoint) or of anyone's checkpoint; nothing in the file can execute.

    Args:
        source: The run's folder, or a file: .safetensors, .pt or .pth.
        architecture: The network that is to begin with them.

    Raises:
        BadInput: nothing there of that name, a damaged file, or one that says that it is of another network.
    """
    path = Path(source)
    if not path.exists():
        raise BadInput(
            f"there is no run or checkpoint {source!r} to begin with; train it first (`robustscape train NAME` trains "
            "into runs/NAME), or did you mean another --from?"
        )
    known = stated(path, _CHECKPOINT)
    if known.architecture is not None and known.architecture != architecture:
        theirs, ours = in_words(known.architecture), in_words(architecture)
        unlike = f"whose weights fit no other network, and this run trains a {ours}"
        if theirs == ours:
            unlike = "as this run's network is, but normalises pixels by other constants"
        raise BadInput(f"{source} is a {theirs}, {unlike}; did you mean {_options(known.architecture, architecture)}?")
    return Pretrained(source=source, weights=read(known.weights, _CHECKPOINT), known=known)


def begun_with(
    found: Pretrained, architecture: Architecture, *, image: tuple[int, int, int], classes: tuple[str, ...], seed: int
) -> tuple[nn.Module, str]:
    """Return a network with weights trained before; its head, the last linear layer, is new where classes differ.

    Classes are compared by name, or by their number where the weights do not come with names.

    Args:
        found: The weights.
        architecture: The network.
        image: Shape of an image, (C, H, W).
        classes: Names of its classes, K.
        seed: Draws the new head, as ``build`` does.

    Returns:
        The network, (N, C, H, W) to (N, K), and in words what became of the weights and of the head.

    Raises:
        BadInput: the weights are of another network, or nothing but a head.
    """
    model = architecture.build(image=image, classes=len(classes), seed=seed)
    fit, count = _fitted(found, architecture, model, image, len(classes))
    names = found.known.classes
    head = _head(model)
    own = model.state_dict()
    same = count == len(classes) if names is None else names == classes
    if not same and set(own) <= head:
        raise BadInput(f"{found.source} tells other classes apart, and its network is nothing but a head for them")
    model.load_state_dict({name: own[name] if name in head and not same else fit.state[name] for name in own})
    words = [f"the training begins with the weights of {found.source}"]
    words += ["taken in their order, in which all shapes agree"] if fit.by == "order" else []
    words += [f"of its state dicts {found.weights.nest!r}"] if found.weights.others else []
    kept = "and its head" if same else f"and a new head: its own is for {count} other classes, here are {len(classes)}"
    return model, ", ".join((*words, kept))


def _fitted(
    found: Pretrained, architecture: Architecture, model: nn.Module, image: tuple[int, int, int], classes: int
) -> tuple[Fitted, int]:
    """Return the weights under the network's names, and for how many classes they are."""
    own = model.state_dict()
    state, constants = without_constants(unwrapped(found.weights.state, own), own)
    _check_constants(found.source, architecture, constants)
    named = found.known.classes
    rows = sorted({len(value) for value in state.values() if value.ndim == 2 and len(value) > 1})
    problem = ""
    for count in dict.fromkeys([classes, *rows] if named is None else [len(named)]):
        if count != classes:
            own = architecture.build(image=image, classes=count, seed=0).state_dict()
        fit = fitted(own, state, ordered=found.weights.ordered)
        if not fit.problem:
            return fit, count
        problem = problem or fit.problem
    raise BadInput(
        f"{found.source} does not hold the weights of a {in_words(architecture)} for images of {image}: {problem}; "
        "did you mean another --model, or its --model.width?"
    )


def _check_constants(source: str, architecture: Architecture, constants: Constants | None) -> None:
    """Refuse weights whose file normalises pixels in another way than the network."""
    if constants is None:
        return
    own = [getattr(architecture, name, None) for name in ("mean", "std")]
    if not all(mine is not None and close(mine, held) for mine, held in zip(own, constants, strict=True)):
        mean, std = (_words(tuple(round(value, 6) for value in values)) for values in constants)
        raise BadInput(
            f"{source} normalises pixels by constants that this run's network does not have; give them to it, by "
            f"--model.mean {mean} --model.std {std}"
        )


def _head(model: nn.Module) -> set[str]:
    """Return the names of the tensors of the last linear layer."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert found, "every network of this room ends with a linear layer"
    name, module = found[-1]
    tensors: dict[str, Tensor] = module.state_dict()
    return {f"{name}.{inner}".strip(".") for inner in tensors}


def _options(theirs: Architecture, ours: Architecture) -> str:
    """Return the options that make our network theirs."""
    kind: Any = type(theirs)
    usual = ours if type(ours) is kind else kind()
    options = [] if type(ours) is kind else [f"--model {kind.__module__.rpartition('.')[2]}"]
    for field in fields(kind):
        value = getattr(theirs, field.name)
        if value != getattr(usual, field.name):
            options.append(f"--model.{field.name.replace('_', '-')} {_words(value)}")
    return " ".join(options)


def _words(value: Any) -> str:
    """Return a field's value as it is written on the command line."""
    if isinstance(value, tuple):
        return " ".join(map(_words, value))
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
