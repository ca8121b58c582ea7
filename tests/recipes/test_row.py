"""The rows of the papers: all that are published are there, and each can be trained."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from robustscape.cli.recipes import rows
from robustscape.config import from_plain, to_plain
from robustscape.data.targets import Targets
from robustscape.recipes.estimating import forwards_of_step, size_of
from robustscape.recipes.given import check
from robustscape.recipes.small import smaller
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

FIRST_STAGES = {"wu/table2": ["Pre-training, first stage"], "yan/table3": ["Pre-training, first stage"]}
"""What trainings of a table begin with, which is no row of it."""


@pytest.mark.parametrize("table", PUBLISHED)
def test_contract_every_published_training_has_a_recipe(table):
    there = [row.row for row in rows() if f"{row.paper}/{row.table}" == table]
    assert sorted(there) == sorted((*PUBLISHED[table], *FIRST_STAGES.get(table, ())))


def test_contract_the_page_names_every_row_of_a_table():
    page = (Path(__file__).parents[2] / "docs" / "howto" / "papers.md").read_text()
    missing = [row.name for row in rows() if row.table.startswith("table") and f"`{row.name}`" not in page]
    assert missing == []
    assert all(f"`{row.paper}_{row.table}_*`" in page for row in rows() if not row.table.startswith("table"))


def test_contract_names_are_words_and_different():
    names = [name for row in rows() for name in (row.name, f"{row.name}_small")]
    assert len(set(names)) == len(names)
    assert all(
        re.fullmatch(r"[a-z]+_((table|figure)[0-9]+[a-z]?|appendix_[a-z])_[a-z0-9_]+[a-z0-9]", name) for name in names
    )


@cache
def _narrow(model, image, classes):
    """The network as narrow as can be."""
    changes = {"width": 1} if hasattr(model, "width") else {}
    return replace(model, **changes).build(image=image, classes=classes, seed=0)


@pytest.mark.slow
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
        check(run)
        check(smaller(run))


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


def test_contract_what_begins_with_another_run_has_its_network_and_other_classes():
    """Under the name that train gives the run's folder by itself, at both sizes."""
    there = {row.name: row.run for row in rows()}
    begun = [row for row in rows() if row.run.start is not None]
    assert [row.name for row in begun] == [
        *("wu_table2_pre_training", "wu_table2_pre_training_awp"),
        *("yan_table3_pre_training", "yan_table3_pre_training_amp"),
    ]
    for row in begun:
        first = there[row.run.start.removeprefix("runs/")]
        small, small_first = smaller(row.run), smaller(first)
        assert first.model == row.run.model and small.start == f"{row.run.start}_small"
        assert small_first.model == small.model and set(small_first.data.classes).isdisjoint(small.data.classes)


def test_closed_form_soft_targets_as_the_papers_set_them():
    soft = {row.name: row.run.targets for row in rows() if row.run.targets != Targets()}
    assert soft.pop("stutz_table1_label_smoothing") == Targets(smoothing=0.3)
    assert soft.pop("stutz_table1_label_noise") == Targets(noise=0.3)
    assert [soft.pop(f"stutz_figure7_label_smoothing_0_{k}").smoothing for k in (1, 2, 3)] == [0.1, 0.2, 0.3]
    assert [soft.pop(f"stutz_figure7_label_noise_0_{k}").noise for k in ("05", 1, 2, 3, 4, 5)][-2:] == [0.4, 0.5]
    mixed = {"wu_figure3d_linf_mixup", "wu_figure3d_l2_mixup", "yan_table4_at_mixup", "yan_table5_at_mixup"}
    assert set(soft) == mixed and set(soft.values()) == {Targets(mixup=1.4)}


def test_closed_form_unlabelled_images_as_the_papers_mix_them():
    mixed = {row.name: row.run for row in rows() if row.run.unlabelled.source is not None}
    assert all(run.unlabelled.source == "ti_500K_pseudo_labeled.pickle" for run in mixed.values())
    own = mixed.pop("stutz_table1_unlabeled")
    assert (own.objective.form, own.unlabelled.share, own.training.batch_size) == ("at", 0.7, 128)
    assert sorted(mixed) == [
        *("wu_figure1b_rst", "wu_table2_rst", "wu_table2_rst_awp", "yan_table3_rst", "yan_table3_rst_amp"),
    ]
    for run in mixed.values():
        assert (run.objective.form, run.objective.beta, run.unlabelled.share) == ("trades", 6.0, 0.5)
        assert run.unlabelled.size == 50_000 and run.objective.attack.threat.eps == 8 / 255
