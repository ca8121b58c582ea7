"""Any model and any images as the subject of an evaluation or measurement, and the search that both make."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape import modes
from robustscape.evaluation.checks import check_images, check_logits
from robustscape.runtime import Runtime, fast
from robustscape.runtime.deciding import Decision, decide, passes
from robustscape.runtime.memory import Parts
from robustscape.runtime.predicting import available, fitting, search_bytes
from robustscape.runtime.ranks import from_first, is_first, world
from robustscape.runtime.settings import exact_products
from robustscape.streams import Streams
from robustscape.types import Attack, BadInput, Diverged, Subject, Threat

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
    with torch.no_grad(), modes.evaluating(model):
        try:
            logits = model(x)
        except Exception as error:  # the model's own code, which may raise anything
            reason = str(error).partition("\n")[0]
            raise BadInput(f"the model cannot take images of shape {tuple(x.shape[1:])}: {reason}") from None
    check_logits(logits, len(x), classes)
    return logits.shape[1]


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


def batches(subject: Subject, rows: Tensor | None = None) -> Iterator[tuple[Tensor, int]]:
    """Yield the numbers of the rows of each batch, (B,), and how many of them are meant.

    Every batch has the same size, so that there is one compute shape: the last one repeats its rows.

    Args:
        subject: What is looked at.
        rows: (M,), int64, which examples; by default all.
    """
    rows = torch.arange(len(subject.x), device=subject.x.device) if rows is None else rows
    size = min(subject.batch, len(subject.x))
    for part in rows.split(size) if len(rows) else ():
        yield part.repeat(-(-size // len(part)))[:size], len(part)


def predicted(model: nn.Module, x: Tensor, parts: Parts | None = None) -> Tensor:
    """Return the logits of x, (N, K), without a graph, in eval mode; ``parts`` of x at once, None for all.

    They are computed in the model's own precision, also where the caller has autocast on.
    """
    own = torch.autocast(x.device.type, enabled=False)
    with torch.no_grad(), modes.evaluating(model), exact_products(x.device), own:
        return (parts or Parts()).run(lambda rows: model(x[rows]), len(x))


def judge(model: nn.Module, x: Tensor, y: Tensor, *, parts: Parts | None = None) -> tuple[Tensor, Tensor]:
    """Return cross-entropy (N,), nats, and whether misclassified (N,): one forward of the model itself, eval mode.

    Args:
        model: The model itself.
        x: (N, C, H, W), inputs.
        y: (N,), labels.
        parts: How many are worked through at once; None for all.

    Raises:
        Diverged: a loss is not finite: such an example counts neither as fooled nor as safe.
    """
    logits = predicted(model, x, parts)
    loss = F.cross_entropy(logits, y, reduction="none")
    if not bool(torch.isfinite(loss).all()):
        raise Diverged(f"the model's loss is not finite for {int((~torch.isfinite(loss)).sum())} of {len(x)} inputs")
    return loss, logits.argmax(dim=1) != y


def inside(threat: Threat, x_adv: Tensor, x: Tensor) -> Tensor:
    """Return whether each x_adv may be counted, (N,), bool: in the box exactly, in the ball up to rounding.

    The rounding allowed is that of x + delta in x's own dtype: one unit in the last place of 1 per pixel.
    """
    delta = (x_adv.double() - x.double()).flatten(1)
    ulp = torch.finfo(x.dtype).eps
    if threat.norm == "linf":
        near = delta.abs().amax(dim=1) <= threat.eps + ulp
    else:
        near = torch.linalg.vector_norm(delta, dim=1) <= threat.eps + ulp * delta.shape[1] ** 0.5
    flat = x_adv.flatten(1)
    return near & (flat >= 0).all(dim=1) & (flat <= 1).all(dim=1)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search found for some examples, judged by the model itself.

    Attributes:
        loss: (N,), cross-entropy of what was found, nats; -inf where it left the threat model.
        wrong: (N,), bool, misclassified, and inside the threat model.
        x_adv: (N, C, H, W), what came back.
    """

    loss: Tensor
    wrong: Tensor
    x_adv: Tensor


def search(subject: Subject, searched: nn.Module, attack: Attack, rows: Tensor, *tags: str | int) -> Found:
    """Attack some examples on ``searched`` and judge what comes back by the subject's own model.

    Args:
        subject: What is looked at.
        searched: What the attack differentiates: an entered fast view, or the model itself.
        attack: The search.
        rows: (B,), int64, which examples.
        *tags: Purpose of the random numbers.
    """
    x, y, rng = subject.x[rows], subject.y[rows], Streams(subject.seed, tags, subject.index[rows])
    parts = subject.parts or Parts()

    def some(part: slice) -> Tensor:
        return attack(searched, x[part], y[part], rng=rng.of(subject.index[rows[part]]))

    x_adv = parts.run(some, len(x))
    allowed = inside(attack.threat, x_adv, x)
    loss, wrong = judge(subject.model, x_adv, y, parts=parts)
    return Found(loss=loss.masked_fill(~allowed, -torch.inf), wrong=wrong & allowed, x_adv=x_adv)


@dataclass(frozen=True, kw_only=True)
class Performance:
    """Means over a subject's examples at the weights that its model carries: nats and fractions."""

    clean_loss: float
    clean_error: float
    robust_loss: float
    robust_error: float


def performance(subject: Subject, attack: Attack, *tags: str | int) -> Performance:
    """Return clean and robust loss and error, all from one attack on every example.

    The robust ones are the worse of the clean and the attacked input, example by example: the clean input is
    inside the threat model too.

    Args:
        subject: What is looked at, at its model's present weights.
        attack: Run on the fast view; judged by the model itself in its own precision.
        *tags: Purpose of the random numbers: the same tags give the same starts.

    Raises:
        Diverged: a loss is not finite.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    with subject.view as searched:
        for rows, count in batches(subject):
            clean_loss, clean_wrong = judge(subject.model, subject.x[rows], subject.y[rows], parts=subject.parts)
            found = search(subject, searched, attack, rows, *tags)
            worst = torch.maximum(clean_loss, found.loss)
            columns = torch.stack([c.double() for c in (clean_loss, clean_wrong, worst, clean_wrong | found.wrong)])
            sums += columns[:, :count].sum(dim=1).cpu()
    means = (sums / len(subject.x)).tolist()
    return Performance(clean_loss=means[0], clean_error=means[1], robust_loss=means[2], robust_error=means[3])
