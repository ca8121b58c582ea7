"""Is the reference mode the reference? Every attack of AutoAttack beside pyautoattack 0.2.0, on four networks.

    python benchmarks/parity.py [NETWORK ...]

Each attack of AutoAttack's version "plus", of full length, searches the same images in one batch, once by
``attacks.reference.reference`` and once by pyautoattack's own class, from the same seed, on one thread. Compared are
the flags, the inputs returned, and all inputs that the network was shown on the way: the iterates. Writes
benchmarks/results/parity.json after every attack; given again, it goes on, on any machine. Exits with 1 where flags
differ, where inputs returned differ by more than 1e-6, or where an iterate of APGD or of Square under linf is not the
same bits.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.autoattack import AutoAttack
from robustscape.attacks.fab import FAB
from robustscape.attacks.losses import DLR, TargetedDLR
from robustscape.attacks.reference import reference
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.config import from_plain
from robustscape.data.digits import Digits
from robustscape.models.linear import Linear
from robustscape.models.loading import load
from robustscape.results import commit, processor, read_json, read_run, stopwatch, versions, write_json
from robustscape.types import DataSource, Images

HERE = Path(__file__).parent
FILE = HERE / "results" / "parity.json"
NORMS = {"linf": "Linf", "l2": "L2"}
SEED = 0
NEAR = 1e-6  # how far the inputs returned may be apart
EXACT = ("APGD-CE, linf", "APGD-CE, l2", "APGD-DLR, linf", "APGD-DLR, l2", "APGD-T, linf", "APGD-T, l2", "Square, linf")


def linear() -> tuple[nn.Module, Images]:
    """Return a linear network that logistic regression has fitted to the digits, and their test images."""
    splits = Digits().load(seed=0)
    model = Linear().build(image=(1, 8, 8), classes=10, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(splits.train.pixels()), splits.train.y).backward()
        optimizer.step()
    return model, splits.test


def trained(name: str) -> tuple[nn.Module, Images]:
    """Return a network of benchmarks/checkpoints with its last weights, and the test images of its data."""
    folder = HERE / "checkpoints" / name
    data: DataSource = from_plain(read_run(folder)["run"]).data
    return load(folder, checkpoint="last"), data.load(seed=0).test


@dataclass(frozen=True, kw_only=True)
class Case:
    """A network to compare on.

    Attributes:
        make: Returns it and its test images.
        n: How many of these, the first.
        eps: Radius of each norm.
        restarts: Of APGD on both losses and of untargeted FAB; the version "plus" has 5.
    """

    make: Callable[[], tuple[nn.Module, Images]]
    n: int
    eps: dict[Literal["linf", "l2"], float]
    restarts: int = 5


NETWORKS = {
    "digits, linear": Case(make=linear, n=200, eps={"linf": 0.05, "l2": 0.3}),
    "digits, LeNet(8), AT": Case(make=lambda: trained("digits/at"), n=200, eps={"linf": 0.1, "l2": 0.5}),
    "digits, LeNet(8), natural": Case(make=lambda: trained("digits/natural"), n=200, eps={"linf": 0.05, "l2": 0.3}),
    "MNIST, LeNet(16), AT": Case(make=lambda: trained("mnist/at"), n=32, eps={"linf": 0.3, "l2": 1.5}, restarts=1),
}


class Seen(nn.Module):
    """A network that keeps a hash of every input that it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.inputs: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        """Return the network's logits."""
        self.inputs |= {hash(row.tobytes()) for row in x.detach().numpy()}
        return self.model(x)


def authors(attack: APGD | FAB | Square, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return what pyautoattack's own class returns; it seeds torch's global generator."""
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
    from pyautoattack.fab_pt import FABAttack_PT
    from pyautoattack.square import SquareAttack

    threat = attack.threat
    common: dict[str, Any] = {"norm": NORMS[threat.norm], "eps": threat.eps, "seed": SEED, "device": "cpu"}
    common["n_restarts"] = attack.restarts
    if isinstance(attack, Square):
        made = SquareAttack(model, n_queries=attack.queries, p_init=attack.p, resc_schedule=attack.rescale, **common)
    elif isinstance(attack, FAB):
        few = {"targeted": attack.targets is not None, "n_target_classes": attack.targets or 9}
        made = FABAttack_PT(model, n_iter=attack.steps, **few, **common)
    else:
        common |= {"n_iter": attack.steps, "logger": logging.getLogger("pyautoattack")}
        if isinstance(attack.loss, TargetedDLR):
            made = APGDAttack_targeted(model, n_target_classes=attack.targets, **common)
        else:
            made = APGDAttack(model, loss="dlr" if isinstance(attack.loss, DLR) else "ce", **common)
    with torch.random.fork_rng(devices=[]):
        return made.perturb(x.clone(), y.clone())


def compared(attack: APGD | FAB | Square, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Return what the two make of the same images, in numbers."""
    ours, theirs, took = Seen(model), Seen(model), stopwatch()
    found = reference(attack, ours, x, y, seed=SEED)
    between = took()
    wanted = authors(attack, theirs, x, y)
    with torch.no_grad():
        right = model(x).argmax(dim=1) == y
        flags, wished = (model(x_adv).argmax(dim=1) == y for x_adv in (found, wanted))
    return {
        "attack": attack.describe(),
        "n": len(x),
        "right": int(right.sum()),
        "robust, ours": int(flags.sum()),
        "robust, pyautoattack": int(wished.sum()),
        "flags differing": int((flags != wished).sum()),
        "largest difference of the inputs returned": float((found - wanted).detach().abs().max()),
        "iterates of pyautoattack": len(theirs.inputs),
        "of them, not the same bits as any of ours": len(theirs.inputs - ours.inputs),
        "seconds, ours": round(between, 1),
        "seconds, pyautoattack": round(took() - between, 1),
    }


def agrees(line: dict[str, Any]) -> bool:
    """Return whether an attack is as near to the reference as is promised."""
    same = line["flags differing"] == 0 and line["largest difference of the inputs returned"] <= NEAR
    return same and (line["name"] not in EXACT or line["of them, not the same bits as any of ours"] == 0)


def problem(network: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network, in eval mode and without gradients of its weights, its images and their labels."""
    case = NETWORKS[network]
    model, images = case.make()
    return model.eval().requires_grad_(False), images.pixels(slice(0, case.n)), images.y[: case.n]


def jobs(network: str) -> dict[str, APGD | FAB | Square]:
    """Return the attacks on a network, by name and norm."""
    case, made = NETWORKS[network], {}
    for norm, eps in case.eps.items():
        for name, attack in AutoAttack(threat=ThreatModel(norm=norm, eps=eps), version="plus").parts().items():
            made[f"{name}, {norm}"] = replace(attack, restarts=min(attack.restarts, case.restarts))
    return made


def main(*names: str) -> int:
    """Return the exit code."""
    torch.set_num_threads(1)
    about = {"versions": versions() | {"pyautoattack": metadata.version("pyautoattack")}, "seed": SEED, "threads": 1}
    before = read_json(FILE) if FILE.is_file() else {}
    known = before.get("attacks", []) if all(before.get(name) == value for name, value in about.items()) else []
    done = {(line["network"], line["name"], line["attack"], line["n"]): line for line in known}
    for network in names or NETWORKS:
        model, x, y = problem(network)
        for name, attack in jobs(network).items():
            key = (network, name, attack.describe(), len(x))
            if key not in done:
                where = {"commit": commit(), "device": processor()}
                done[key] = {"network": network, "name": name} | compared(attack, model, x, y) | where
                write_json(FILE, {**about, "attacks": list(done.values())})
                print(done[key], flush=True)
    return int(not all(agrees(line) for line in done.values()))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
