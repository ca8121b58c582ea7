"""Show versions, device, precision, threads and the data found: `robustscape info`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from robustscape.cli.arguments import parse
from robustscape.cli.components import SPREAD
from robustscape.cli.display import out
from robustscape.results import commit, device_name, versions
from robustscape.runtime import Runtime

if TYPE_CHECKING:
    from robustscape.runtime.deciding import Decision


@dataclass(frozen=True, kw_only=True)
class Info:
    """Options of ``info``.

    Attributes:
        runtime: The machine as these options use it. With --compile yes the fast view of two small networks is
            compiled, and what is compiled anew when their weights move is counted: half a minute.
    """

    runtime: Runtime = field(default_factory=Runtime, metadata=SPREAD)


def main(arguments: list[str]) -> None:
    """Print what a number may depend on, and where data are looked for."""
    description = f"{(__doc__ or '').partition(':')[0]}."
    runtime = parse(Info(), arguments, program="robustscape info", description=description).runtime
    rows = {**versions(), "commit": commit() or "none: not in a source tree"}
    rows |= {"device": device_name(runtime.torch_device()), "precision": runtime.words(), "threads": _threads(runtime)}
    rows |= {"data folder": _data_folder(), "download cache": _cache()}
    if runtime.compile == "yes":
        rows |= {f"LeNet({width}) compiled": _compiled(runtime, width) for width in (4, 8)}
    rows |= _decided()
    width = max(map(len, rows))
    for name, value in rows.items():
        out(f"{name:<{width}}  {value}")


def _compiled(runtime: Runtime, width: int) -> str:
    """Compile a network's fast view, move the weights three times, and say what was compiled when."""
    import torch

    from robustscape.attacks.pgd import PGD
    from robustscape.models.lenet import LeNet
    from robustscape.results import stopwatch
    from robustscape.runtime import fast, graphs_compiled, place
    from robustscape.streams import Streams
    from robustscape.weights.space import gaussian, normalised, select, shifted

    model = place(LeNet(width=width).build(image=(1, 28, 28), classes=10, seed=0), runtime)
    rng = Streams(0, ("info",))
    device = runtime.torch_device()
    x, y = rng.uniform(32, 1, 28, 28, device=device), torch.zeros(32, dtype=torch.int64, device=device)
    weights = select(model, "layers")
    direction = normalised(gaussian(weights, rng), weights, "layer")
    view, before, seconds = fast(model, runtime), graphs_compiled(), stopwatch()
    with view as f:
        PGD(steps=1)(f, x, y)
    first, took = graphs_compiled() - before, seconds()
    for scale in (0.1, 0.2, 0.3):
        with shifted(model, direction, scale), view as f:
            PGD(steps=1)(f, x, y)
    again = graphs_compiled() - before - first
    return f"{first} graph in {took:.0f} s, {again} more when its weights moved three times"


def _decided() -> dict[str, str]:
    """Return what trials on this machine chose, in words, by model and batch."""
    from robustscape.runtime.deciding import decision_of
    from robustscape.runtime.remembering import cache_file, read

    rows: dict[str, str] = {}
    for entry in read(cache_file()).values():
        batch = "x".join(map(str, entry["shape"]))
        for trials, plain in entry["decisions"].items():
            if (decision := decision_of(plain)) is None:  # another version's
                continue
            tried = ", ".join(f"{words} {ms:g} ms" for words, ms in decision.milliseconds.items()) or "not timed"
            name = f"{entry['model']} of {entry['parameters']:,} parameters, batch {batch}, trials {trials}"
            rows[name] = f"{_in_words(decision)}: {decision.reason} ({tried})"
    return rows


def _in_words(decision: Decision) -> str:
    """Return what was chosen, what is usual left out."""
    words = [decision.precision, decision.format.replace("_", " "), f"{decision.threads} threads"]
    words.append("compiled" if decision.compile == "yes" else "not compiled")
    if decision.processes > 1:
        words.append(f"{decision.processes} processes side by side are faster")
    if decision.ranks > 1:
        words.append(f"{decision.ranks} ranks")
    if decision.batch:
        words.append(f"{decision.micro_batch or decision.batch} of {decision.batch} examples at once")
    if decision.checkpointing:
        words.append("activations computed again")
    return ", ".join(words)


def _threads(runtime: Runtime) -> str:
    import torch

    return str(runtime.threads or torch.get_num_threads())


def _data_folder() -> str:
    from robustscape.data.fetch import VARIABLE

    folder = os.environ.get(VARIABLE)
    if not folder:
        return f"none: {VARIABLE} is not set"
    path = Path(folder).expanduser()
    inside = ", ".join(sorted(item.name for item in path.iterdir() if item.is_dir())) if path.is_dir() else ""
    return f"{path} ({inside or 'no folder in it'})" if path.is_dir() else f"{path}, which is no folder"


def _cache() -> str:
    from robustscape.runtime.remembering import cache_folder

    path = cache_folder()
    return f"{path} ({', '.join(sorted(item.name for item in path.iterdir()))})" if path.is_dir() else f"{path} (empty)"
