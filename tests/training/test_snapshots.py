"""Periods, and the snapshots at their ends."""

from __future__ import annotations

import pytest

from robustscape.training.schedules.constant import Constant
from robustscape.training.schedules.cyclic import Cyclic
from robustscape.training.schedules.periodic import Periodic
from robustscape.training.schedules.rise import Rise
from robustscape.training.settings import Training
from robustscape.training.snapshots import period_ends, snapshots_in
from robustscape.types import BadInput


def test_closed_form_periods_of_liu():
    assert period_ends(200, Periodic(), Periodic(of=Rise())) == (100, 150, 200)
    assert period_ends(100, Constant(), Periodic(of=Rise())) == (50, 75, 100)
    assert period_ends(12, Cyclic(cycles=3), Periodic(resets=(0.5,))) == (4, 6, 8, 12)
    assert period_ends(30, Periodic(resets=(0.1, 0.7)), Constant()) == (3, 21, 30)  # 0.7 * 30 is not 21 in floats


def test_closed_form_names_of_snapshots():
    settings = Training(epochs=8, lr=Periodic(), snapshots=True)
    assert [settings.snapshot_after(epoch) for epoch in range(1, 9)] == [
        *(None, None, None, "snapshot-1", None, "snapshot-2", None, "snapshot-3")
    ]
    assert Training(epochs=8, lr=Periodic()).snapshot_after(8) is None


@pytest.mark.parametrize("schedule", [Constant(), Rise(), Cyclic()])
def test_contract_without_periods_there_is_nothing_to_keep(schedule):
    with pytest.raises(BadInput, match=r"did you mean --training\.lr periodic"):
        period_ends(10, schedule)


def test_contract_a_period_ends_with_an_epoch():
    with pytest.raises(BadInput, match=r"after 7\.5 of 10 epochs"):
        period_ends(10, Periodic())


def test_contract_snapshots_are_found_in_their_order(tmp_path):
    for name in ("last", *(f"snapshot-{number}" for number in range(1, 12))):
        (tmp_path / f"{name}.safetensors").touch()
    assert snapshots_in(tmp_path) == tuple(f"snapshot-{number}" for number in range(1, 12))
    with pytest.raises(BadInput, match=r"train with --training\.snapshots"):
        snapshots_in(tmp_path / "nowhere")
