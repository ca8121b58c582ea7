"""Any model and any images as the subject of an evaluation or measurement, as this machine is fastest with it."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustscape import modes
from robustscape.evaluation.checks import check_images, check_logits
from robustscape.runtime import Runtime, fast
from robustscape.runtime.counting import passes
from robustscape.runtime.deciding import Decision, decide
from robustscape.runtime.memory import Parts
from robustscape.runtime.predicting import available, fitting, search_bytes
from robustscape.runtime.ranks import from_first, is_first, world
from robustscape.types import Attack, BadInput, Subject

T = TypeVar("T")

_HALF = (torch.float16, torch.bfloat16)
_LOOK = 32  # images that a model is tried on before anything is believed


def subject(
    model: nn.Module,
    x: Tensor | np.ndarray,
    y: Tensor | np.ndarray,
    *,
    index: Tensor | None = None,
    seed: int = 0,
    runtime: Runtime | None = None,
    batch: int = 250,
    classes: Sequence[str] = (),
    split: str = "",
    model_name: str = "",
    data_name: str = "",
) -> Subject:
    """Return a model and examples, checked and on the model's device, for evaluations and measurements.

    Args:
        model: Maps pixels in [0, 1] to logits; used in eval mode where it lies, and left without a trace.
        x: (N, C, H, W), floats in [0, 1].
        y: (N,), integer labels.
        index: (N,), int64, the number of each example in its data set; by default 0 to N - 1.
        seed: Seed of all random numbers.
        runtime: Arithmetic of the search; its device gives way to the model's. By default the fastest that
            is known to be right.
        batch: Examples per forward, at least 1.
        classes: Class names; by default their numbers.
        split: Which split the examples are from, for example "test".
        model_name: What is measured, for provenance; by default the class of the model.
        data_name: Which data, for provenance.

    Raises:
        BadInput: images outside [0, 1], labels outside the classes, lengths that differ, a batch below 1, or a
            model in half precision or whose output for the first images is not logits; more devices than
            there are ranks; or too little memory for a single example.
    """
    if not isinstance(model, nn.Module):
        raise BadInput(
            f"the model must be a torch.nn.Module, not {type(model).__name__}; did you mean to wrap it in one?"
        )
    tensors = [*model.parameters(), *model.buffers()]
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes & set(_HALF):
        raise BadInput("the model's weights are in half precision; call model.float(): the search chooses its own")
    if batch < 1:
        raise BadInput(f"batch size must be at least 1, not {batch}")
    if runtime is not None and runtime.devices not in (1, world()):
        raise BadInput(
            f"devices is {runtime.devices}, and {world()} process(es) are here; see runtime.launching.launch"
        )
    device = tensors[0].device if tensors else torch.device("cpu")
    runtime = replace(runtime or Runtime(), device=str(device))
    images, labels = torch.as_tensor(x), torch.as_tensor(y)
    check_images(images, labels, len(classes) or (max(int(labels.max()), 0) + 1 if labels.numel() else 1))
    images = images.to(
        device, torch.float64 if any(p.dtype == torch.float64 for p in model.parameters()) else torch.float32
    ).clamp(0, 1)
    outputs = _outputs(model, images[:_LOOK], len(classes) or None)
    if int(labels.max()) >= outputs:
        meant = "; did you mean y - 1?" if int(labels.max()) == outputs and int(labels.min()) >= 1 else ""
        raise BadInput(f"labels go up to {int(labels.max())}, but the model has {outputs} outputs{meant}")
    where = torch.arange(len(images)) if index is None else torch.as_tensor(index)
    if len(where) != len(images):
        raise BadInput(f"{len(images)} images came with {len(where)} indices")
    made = Subject(
        model=model,
        x=images,
        y=labels.to(device, torch.int64),
        index=where.to(device, torch.int64),
        seed=seed,
        view=fast(model, runtime),
        batch=batch,
        runtime=runtime,
        classes=tuple(classes) or tuple(str(k) for k in range(outputs)),
        split=split,
        model_name=model_name or type(model).__name__,
        data_name=data_name or "unnamed data",
    )
    return in_batches(made, batch)


def in_batches(subject: Subject, batch: int) -> Subject:
    """Return the subject with a batch size: worked through in parts where memory is predicted not to hold a batch.

    Raises:
        BadInput: there is too little memory for a single example.
    """
    n = min(batch, len(subject.x))
    size = fitting(n, search_bytes(subject.model, subject.runtime, subject.x), available(subject.runtime))
    return _parted(replace(subject, batch=batch), size)


def _parted(subject: Subject, size: int) -> Subject:
    """Return the subject with batches worked through ``size`` examples at once; says so where that is news."""
    n, asked = min(subject.batch, len(subject.x)), subject.runtime.micro_batch
    if size < n and (subject.parts is None or size < subject.parts.size):
        warnings.warn(f"memory does not hold a batch of {n}: it is worked through {size} at a time", stacklevel=3)
    fewest = min(size, asked or size)
    return replace(subject, parts=Parts(fewest) if fewest < n else Parts())


def fastest(subject: Subject, attack: Attack | None, calls: int) -> tuple[Subject, Decision | None]:
    """Return the subject as this machine is fastest with it, and what was decided of a search, None for nothing.

    Args:
        subject: What is looked at; of float64 ones only the memory is looked at.
        attack: The search that takes most of the time; None for none, where also only the memory is looked at.
        calls: How often every batch of examples is searched.
    """
    if attack is None or subject.x.dtype == torch.float64:
        return in_batches(subject, subject.batch), None
    x = subject.x[: subject.batch]
    each = passes(attack, subject.model, x[:2], subject.y[:2])
    work = each * calls * -(-len(subject.x) // len(x))
    mine = decide(subject.runtime, subject.model, x, work=work, training=False) if is_first() else None
    decision = from_first(mine)
    assert decision is not None
    # What is known of a measurement must not depend on what memory is free: parts are no part of the runtime.
    runtime = replace(decision.applied(subject.runtime), micro_batch=subject.runtime.micro_batch)
    chosen = replace(subject, runtime=runtime, view=fast(subject.model, runtime))
    return _parted(chosen, decision.micro_batch), decision


def _outputs(model: nn.Module, x: Tensor, classes: int | None) -> int:
    """Return the number of classes that the model gives logits for, once they are seen to be logits."""
    own = torch.random.fork_rng(devices=[x.device] if x.is_cuda else [])  # it may draw
    with torch.no_grad(), modes.evaluating(model), own:
        try:
            logits = model(x)
        except Exception as error:  # the model's own code, which may raise anything
            reason = str(error).partition("\n")[0]
            raise BadInput(f"the model cannot take images of shape {tuple(x.shape[1:])}: {reason}") from None
    check_logits(logits, len(x), classes)
    return logits.shape[1]


def check_surrogate(surrogate: nn.Module, subject: Subject) -> None:
    """Refuse another model whose inputs could not be tried on the subject's.

    Raises:
        BadInput: it is no module, takes other images, or returns what is not logits of as many classes.
    """
    if not isinstance(surrogate, nn.Module):
        raise BadInput(f"the surrogate must be a torch.nn.Module, not {type(surrogate).__name__}")
    try:
        _outputs(surrogate, subject.x[:_LOOK], len(subject.classes))
    except BadInput as error:
        raise BadInput(f"of the surrogate: {error}") from None


def drained(steps: Generator[Any, None, T]) -> T:
    """Run a generator that tells how far it is to its end and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def precision(subject: Subject) -> str:
    """Return the arithmetic of search and judgement in words, for provenance."""
    return "float64" if subject.x.dtype == torch.float64 else subject.runtime.words()
