"""The rows of the papers: all that are published are there or wait, and each can be trained."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from robustscape.cli.recipes import rows
from robustscape.config import from_plain, to_plain
from robustscape.recipes.estimating import forwards_of_step, size_of
from robustscape.training.loop import start

_LINF_5 = ["eps 0/255", "eps 4/255", "eps 8/255", "eps 12/255", "eps 16/255"]
_L2_6 = ["eps 0", "eps 0.2", "eps 0.4", "eps 0.6", "eps 0.8", "eps 1"]
_LIU = [
    f"{task}, {schedule}{again}"
    for task, ends in (
        ("MNIST LeNet eps=0.4", [""]),
        ("CIFAR10 VGG eps=8/255", ["", ", periodic"]),
        ("CIFAR10 ResNet18 eps=8/255", ["", ", periodic"]),
    )
    for schedule in ("constant", "cosine", "linear")
    for again in ends
]
_BENCHMARK = ("AT", "TRADES", "MART", "Pre-training", "RST")
_REGULARISED = ["AT + L1", "AT + L2", "AT + mixup", "AT + cutout", "AT", "AT-AMP"]

PUBLISHED = {
    "yamada/table1": _L2_6,
    "yamada/table2": _L2_6,
    "yamada/table3": [*_LINF_5, "eps 25.5/255", "eps 51/255", "eps 76.5/255"],
    "yamada/table4": _LINF_5,
    "yamada/table5": _LINF_5,
    "yamada/table6": _LINF_5,
    "stutz/table1": [
        *("+Unlabeled", "Cyclic", "AutoAugment", "AT-AWP", "Label noise", "Weight clipping", "TRADES"),
        *("Self-supervision", "Weight decay", "Entropy-SGD", "MiSH", "Late multi-step", "SiLU", "Weight averaging"),
        *("Larger eps=9/255", "MART", "GeLU", "Label smoothing", "AT (baseline)"),
    ],
    "liu/table1": _LIU,
    "wu/table1": [
        f"{norm}, {method}, {data}"
        for norm in ("linf", "l2")
        for method in ("AT", "AT-AWP")
        for data in ("SVHN", "CIFAR-10", "CIFAR-100")
    ],
    "wu/table2": [f"{method}{more}" for method in _BENCHMARK for more in ("", "-AWP")],
    "yan/table1": [
        f"{data}, {norm}, {method}"
        for data in ("SVHN", "CIFAR-10", "CIFAR-100")
        for norm in ("linf", "l2")
        for method in ("AT", "AT-AMP")
    ],
    "yan/table2": [f"{data}, {method}" for data in ("CIFAR-10", "CIFAR-100") for method in ("AT", "AT-AMP")],
    "yan/table3": [f"{method}{more}" for method in _BENCHMARK for more in ("", "-AMP")],
    "yan/table4": _REGULARISED,
    "yan/table5": _REGULARISED,
}
"""Every row of a published table that is a training, as the table calls it."""

WAITING = {
    "stutz/table1": {
        "+Unlabeled": "RST in a run",
        "AutoAugment": "AutoAugment's policy",
        "Label noise": "label noise",
        "Label smoothing": "label smoothing",
    },
    "wu/table2": {
        "Pre-training": "a run that starts from given weights",
        "Pre-training-AWP": "the same",
        "RST": "RST in a run",
        "RST-AWP": "the same",
    },
    "yan/table3": {
        "Pre-training": "a run that starts from given weights",
        "Pre-training-AMP": "the same",
        "RST": "RST in a run",
        "RST-AMP": "the same",
    },
    "yan/table4": {"AT + mixup": "mixup"},
    "yan/table5": {"AT + mixup": "mixup"},
}
"""Those without a recipe, with what they need. A recipe for one of them must be taken out here."""


@pytest.mark.parametrize("table", PUBLISHED)
def test_contract_every_published_training_has_a_recipe_or_waits(table):
    there = [row.row for row in rows() if f"{row.paper}/{row.table}" == table]
    waiting = WAITING.get(table, {})
    assert sorted((*there, *waiting)) == sorted(PUBLISHED[table])


def test_contract_the_page_names_every_row_of_a_table():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "papers.md").read_text()
    missing = [row.name for row in rows() if row.table.startswith("table") and f"`{row.name}`" not in page]
    assert missing == []
    assert all(f"`{row.paper}_{row.table}_*`" in page for row in rows() if row.table.startswith("figure"))


def test_contract_names_are_words_and_different():
    names = [name for row in rows() for name in (row.name, f"{row.name}_small")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+_(table|figure)[0-9]+[a-z]?_[a-z0-9_]+[a-z0-9]", name) for name in names)


@cache
def _narrow(model, image, classes):
    """The network as narrow as can be."""
    changes = {"width": 1} if hasattr(model, "width") else {}
    return replace(model, **changes).build(image=image, classes=classes, seed=0)


@pytest.mark.parametrize("paper", sorted({row.paper for row in rows()}))
def test_contract_every_row_can_be_trained(paper):
    """Its network is built, its training can begin, its method takes a step, and it can be written down."""
    for row in rows():
        if row.paper != paper:
            continue
        run, size = row.run, size_of(row.run.data)
        assert size is not None and size.n > 0
        state = start(_narrow(run.model, size.image, size.classes), run.objective, run.training)
        assert next(state.model.parameters()).requires_grad
        assert forwards_of_step(run.objective, run.weights) >= 3
        assert from_plain(to_plain(run)) == run


def test_contract_wu_sweeps_from_1e_4_to_2():
    for method in ("AT-AWP", "AT-RWP"):
        swept = [row for row in rows() if row.table == "figure3c" and row.row.startswith(method)]
        gammas = [row.run.weights.gamma for row in swept]
        assert (gammas[0], gammas[-1]) == (1e-4, 2.0) and gammas == sorted(set(gammas))
        assert all(type(row.run.weights).__name__ == method.removeprefix("AT-") for row in swept)


def test_contract_runs_that_weaken_the_attack_are_tracked_by_pgd():
    for row in rows():
        attack = row.run.training.track_attack or row.run.objective.attack
        assert attack is None or type(attack).__name__ in ("PGD", "Noise"), row.name
