"""What augmentation costs beside a step of training."""

from typing import get_args

from robustscape.benches.augment import AugmentBench, kinds
from robustscape.data.augment import Augmentation
from robustscape.evaluation.subject import drained


def test_contract_every_kind_is_measured_beside_the_step():
    assert {type(kind) for kind in kinds().values()} >= set(get_args(Augmentation))
    result = drained(AugmentBench().quick().running())
    assert set(result.costs) == {f"{name} / AT step" for name in kinds()}
    for name in kinds():
        turns = zip(result.seconds[name], result.seconds["AT step"], strict=True)
        shares = sorted(one / step for one, step in turns)
        assert shares[0] <= result.costs[f"{name} / AT step"].median <= shares[-1]
