"""The straight line to other weights of the same network."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from torch import nn

from robustscape.landscape.curve import placed as carrying
from robustscape.types import BadInput, Params


def weights_file(other: str) -> Path:
    """Return the file of weights that a path means: the file itself, or the last checkpoint of a run directory.

    Raises:
        BadInput: there is none.
    """
    path = Path(other)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    last = path / "checkpoints" / "last.safetensors"
    if not last.is_file():
        raise BadInput(f"other={other!r} is neither a .safetensors file nor a run directory with checkpoints/last")
    return last


def read_state(model: nn.Module, path: Path) -> Params:
    """Return the parameters and floating-point buffers in a file, in the model's dtypes and on its device.

    Raises:
        BadInput: the file is damaged, or of another architecture: a name is missing or a shape differs.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadInput(f"{path} is not a safetensors file, or was cut short: {error}") from None
    wanted = model.state_dict()
    wanted |= dict(model.named_parameters())
    found: Params = {}
    for name, value in wanted.items():
        if name not in stored or stored[name].shape != value.shape:
            has = f"{tuple(stored[name].shape)}" if name in stored else "none"
            raise BadInput(f"{path} is of another architecture: {name} is {tuple(value.shape)} here and {has} there")
        if value.is_floating_point():
            found[name] = stored[name].to(value)
    return found


def difference(model: nn.Module, there: Params) -> Params:
    """Return the way from the model's parameters to those of a state."""
    return {name: there[name] - value.detach() for name, value in model.named_parameters()}


def placed(model: nn.Module, there: Params, alpha: float) -> AbstractContextManager[None]:
    """Run the block at (1 - alpha) of the model and alpha of a state: exactly these at 0 and 1.

    Floating-point buffers, BatchNorm's running statistics among them, move with the parameters: else the end
    would not be the other network. All get their old bits back, on error too.
    """
    here = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    mixed = {name: (1 - alpha) * here[name].detach() + alpha * value for name, value in there.items() if name in here}
    return carrying(model, mixed)
