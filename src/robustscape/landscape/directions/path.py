"""The plane that a training run moved in: principal components of its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustscape.landscape._other import contents
from robustscape.types import BadInput, Params


@dataclass(frozen=True, kw_only=True)
class Components:
    """Principal directions of a path.

    Attributes:
        vectors: K directions, each as long as the path reaches along it.
        coordinates: (T, K), the checkpoints in units of the directions: in [-1, 1], 1 at the farthest.
        explained: (K,), share of the path's sum of squares that each direction holds.
        checkpoints: T names.
        contents: Hash of their files.
    """

    vectors: list[Params]
    coordinates: Tensor
    explained: Tensor
    checkpoints: tuple[str, ...]
    contents: str


def components(model: nn.Module, folder: str, count: int) -> Components:
    """Return the top directions of w_t - w, w_t the checkpoints epoch-* of a run and w the model's parameters.

    Li 2018 (https://arxiv.org/abs/1712.09913, section 7.2): the plane through w that holds most of the path. One
    parameter at a time is in memory for all checkpoints.

    Deviations:
        The authors' code subtracts the mean of the path, which best fits a plane that need not go through w; here
        the plane that is drawn, through w, is the one that is fitted.

    Raises:
        BadInput: too few checkpoints, a damaged one, or one of another architecture.
    """
    files = sorted((Path(folder) / "checkpoints").glob("epoch-*.safetensors"))
    if len(files) < count:
        raise BadInput(
            f"{count} directions need at least {count} checkpoints epoch-*, and {folder!r} has {len(files)}; did you "
            "mean to train with training.keep_every, or fewer directions?"
        )
    here = {name: value.detach() for name, value in model.named_parameters()}
    gram = torch.zeros(len(files), len(files), dtype=torch.float64)
    for name, w in here.items():
        way = _way(files, name, w)
        gram += way @ way.T
    squares, v = torch.linalg.eigh(gram)
    squares, v = squares.flip(0)[:count].clamp(min=0), v.flip(1)[:, :count]
    if not bool(squares[-1] > 1e-12 * gram.trace()):
        raise BadInput(f"the checkpoints of {folder!r} lie in fewer than {count} directions from these weights")
    coordinates = v * squares.sqrt()
    farthest = coordinates.gather(0, coordinates.abs().argmax(dim=0, keepdim=True)).squeeze(0)
    # d_k = farthest_k u_k with u_k = sum over t of v_tk (w_t - w) / sqrt(squares_k)
    mix = v / squares.sqrt() * farthest
    vectors: list[Params] = [{} for _ in range(count)]
    for name, w in here.items():
        for vector, flat in zip(vectors, mix.T @ _way(files, name, w), strict=True):
            vector[name] = flat.view(w.shape).to(w)
    return Components(
        vectors=vectors,
        coordinates=coordinates / farthest,
        explained=squares / gram.trace(),
        checkpoints=tuple(path.stem for path in files),
        contents=contents(files),
    )


def _way(files: Sequence[Path], name: str, w: Tensor) -> Tensor:
    """Return one parameter of all checkpoints less the model's, (T, D_l), float64 on the CPU."""
    from safetensors import SafetensorError, safe_open

    rows = []
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                value = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise BadInput(f"{path} cannot be read, or is of another architecture: {error}") from None
        if value.shape != w.shape:
            raise BadInput(
                f"{path} is of another architecture: {name} is {tuple(w.shape)} here and {tuple(value.shape)} there"
            )
        rows.append(value.double().flatten() - w.cpu().double().flatten())
    return torch.stack(rows)
