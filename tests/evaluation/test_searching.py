"""One attack on many examples: what is searched again, in which precision, and what is held in memory meanwhile."""

from __future__ import annotations

import weakref
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from robustscape.attacks.apgd import APGD
from robustscape.attacks.fab import FAB
from robustscape.attacks.fgsm import FGSM
from robustscape.attacks.losses import TargetedDLR
from robustscape.attacks.pgd import PGD
from robustscape.attacks.spsa import SPSA
from robustscape.attacks.square import Square
from robustscape.attacks.threat import ThreatModel
from robustscape.evaluation.accuracy import evaluate
from robustscape.evaluation.searching import searching, tally
from robustscape.evaluation.standing import standing
from robustscape.evaluation.subject import subject
from robustscape.runtime import TRUTH, PlainView, Runtime

THREAT = ThreatModel(eps=0.05)
PGD_ERROR = PGD(threat=THREAT, steps=4, result="misclassified")


# -- searched again ----------------------------------------------------------------------------------------

FAR = PGD(threat=ThreatModel(eps=0.02), steps=4, step_size=0.02, result="best_loss")  # to the corner, in two steps
FIRST = replace(FAR, result="misclassified")


class _Linear(nn.Module):
    """Two classes, by the sum of all pixels but the first, which is a mark; notes the batches of which gradients are
    wanted."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x):
        if x.requires_grad:
            self.sizes.append(len(x))
        z = x.flatten(1)[:, 1:].sum(dim=1) - 7.5
        return torch.stack([-z, z], dim=1)


class _Mistaken(nn.Module):
    """The same, but for images that are marked, whose classes it takes for each other; it can be used once."""

    def __init__(self):
        super().__init__()
        self.model, self.closed = _Linear(), False

    def forward(self, x):
        assert not self.closed
        logits = self.model(x)
        return torch.where(x.flatten(1)[:, :1] > 0.8, logits.flip(1), logits)


def _marked(marks, n=40):
    """A subject in batches of 16 whose view is mistaken of some images, and which of all have an adversary."""
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    z = x.flatten(1)[:, 1:].sum(dim=1) - 7.5
    x.view(n, -1)[:, 0] = torch.where(torch.isin(torch.arange(n), torch.tensor(marks)), 1.0, 0.0)
    made = subject(_Linear(), x, (z > 0).long(), runtime=TRUTH, batch=16)
    made.model.sizes.clear()
    return replace(made, view=PlainView(_Mistaken())), z.abs() < 0.02 * 15


def _search(made, attack, found):
    rows = torch.arange(len(made.x))
    yield from searching(made, attack, rows, standing(made, rows, keep=False).logits, found, "test")


@pytest.mark.parametrize("attack", [FAR, FIRST], ids=["batches", "queue"])
@pytest.mark.parametrize(("count", "size"), [(1, 1), (3, 4), (5, 8), (9, 16), (20, 16)])
def test_closed_form_what_is_searched_again_costs_as_much_as_it_is(attack, count, size):
    made, fooled = _marked(list(range(count)))
    found = tally(made, keep=True)
    list(_search(made, attack, found))
    assert found.again == count and bool(found.settled.all())
    assert found.wrong.tolist() == fooled.tolist() and 5 < int(fooled.sum()) < 35
    assert max(made.model.sizes) <= size
    if attack is FAR:
        # On each padded batch a gradient for every step; the queue's batches shrink as examples leave.
        assert made.model.sizes == [size] * 4 * -(-count // size)
        assert (found.loss > 0).all()


def test_contract_what_an_example_gets_again_does_not_depend_on_how_many_are():
    for attack in (FAR, FIRST):
        tallies = []
        for marks in ([3], [1, 3, 7, 20, 21]):
            made, _ = _marked(marks)
            tallies.append(tally(made, keep=True))
            list(_search(made, attack, tallies[-1]))
        one, several = tallies
        assert one.wrong.tolist() == several.wrong.tolist()
        torch.testing.assert_close(one.x_adv[3], several.x_adv[3], rtol=0, atol=1e-6)
        torch.testing.assert_close(one.loss[3], several.loss[3], rtol=0, atol=1e-5)


def test_contract_one_that_is_interrupted_while_it_searches_again_goes_on_there():
    made, _ = _marked(list(range(20)))
    whole, found = tally(made, keep=True), tally(made, keep=True)
    list(_search(made, FAR, whole))
    work = _search(made, FAR, found)
    while not found.again:
        next(work)
    assert 0 < int((~found.settled).sum()) < 20
    work.close()
    made.view.model.closed = True
    list(_search(made, FAR, found))
    assert found.again == whole.again == 20
    for name in ("wrong", "loss", "x_adv", "settled"):
        assert torch.equal(getattr(found, name), getattr(whole, name)), name
    assert (found.forwards, found.backwards) == (whole.forwards, whole.backwards)


# -- precision ---------------------------------------------------------------------------------------------


class _Noted:
    """What types logits had, of a network and its copies."""

    def __init__(self):
        self.types = set()

    def __deepcopy__(self, _):
        return self


class _Telling(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))
        self.noted = _Noted()

    def forward(self, x):
        logits = self.layers(x)
        self.noted.types.add(logits.dtype)
        return logits


def _telling(runtime):
    model, x = _Telling(), torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(dim=1)
    made = subject(model, x, y, runtime=runtime)
    model.noted.types.clear()
    return made


LOW = Runtime(precision="bfloat16", compile="no")


def test_contract_spsa_sees_float32_where_others_see_bfloat16():
    spsa, square = SPSA(threat=THREAT, steps=4, samples=8), Square(threat=THREAT, queries=8)
    for attack, types, words in (
        (spsa, {torch.float32}, "float32"),
        (square, {torch.float32, torch.bfloat16}, "bfloat16"),
    ):
        made = _telling(LOW)
        found = tally(made, keep=True)
        list(_search(made, attack, found))
        assert made.model.noted.types == types and found.precision == words
    low, plain = tally(_telling(LOW), keep=True), tally(_telling(TRUTH), keep=True)
    list(_search(_telling(LOW), spsa, low))
    list(_search(_telling(TRUTH), spsa, plain))
    assert torch.equal(low.x_adv, plain.x_adv) and torch.equal(low.wrong, plain.wrong)
    assert 0 < int(low.wrong.sum()) < 30


def test_contract_the_result_says_which_precision_searched():
    made, attacks = _telling(LOW), (PGD_ERROR, SPSA(threat=THREAT, steps=2, samples=4))
    settings = {"eps": 0.05, "attacks": attacks, "loss_steps": 2, "loss_restarts": 1, "sanity": 0}
    found = evaluate(made.model, made.x, made.y, runtime=LOW, **settings)
    assert [(s.name, s.precision) for s in found.searches] == [
        ("PGD, loss", "bfloat16"),
        ("PGD", "bfloat16"),
        ("SPSA", "float32"),
    ]
    double = evaluate(made.model.double(), made.x, made.y, runtime=LOW, **settings)
    assert {s.precision for s in double.searches} == {"float64"}


class _Rounded(nn.Module):
    """A linear model whose small weights lower precision rounds away beside 1 for the images that are marked."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(15, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 15))

    def forward(self, x):
        flat = x.flatten(1)
        z = self.linear(flat[:, 1:] - 0.5)
        blind = (flat[:, :1] > 0.8) & (z.dtype != torch.float32)
        return torch.where(blind, z * 0, z)


@pytest.mark.parametrize(
    "attack", [FAR, FGSM(threat=FAR.threat), replace(FAR, result="last")], ids=["best", "fgsm", "last"]
)
def test_contract_gradients_that_vanish_in_lower_precision_are_followed_again_batch_by_batch_too(attack):
    x = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    marked = torch.arange(40) % 5 == 0
    x.view(40, -1)[:, 0] = torch.where(marked, 1.0, 0.0)
    z = (x.flatten(1)[:, 1:] - 0.5).sum(dim=1)
    y, model = (z > 0).long(), _Rounded()
    counts, found = [], None
    for runtime in (LOW, TRUTH):
        made = subject(model, x, y, runtime=runtime, batch=16)
        found = tally(made, keep=True)
        list(_search(made, attack, found))
        assert torch.equal(found.wrong, z.abs() < 0.02 * 15)
        counts.append(found.again)
    assert counts == [int((marked & (z.abs() >= 0.02 * 15)).sum()) + int((marked & found.wrong).sum()), 0]


class _Stubborn(_Telling):
    """Puts what its layers give into a float32 tensor of its own, which autocast does not see."""

    def forward(self, x):
        out = x.new_zeros(len(x), 3)
        out[torch.arange(len(x))] = self.layers(x)
        return out


@pytest.mark.filterwarnings("ignore:.*runs in float32, not in bfloat16")  # that is what is looked at
def test_contract_a_model_that_does_not_run_lower_is_said_to_search_in_float32():
    model, made = _Stubborn(), _telling(LOW)
    found = tally(made, keep=True)
    list(_search(subject(model, made.x, made.y, runtime=LOW), PGD_ERROR, found))
    assert found.precision == "float32"


# -- memory ------------------------------------------------------------------------------------------------


class _Held:
    """A tensor that a graph holds for its backward."""

    def __init__(self, tensor):
        self.tensor = tensor.detach()  # not itself, which may hold the graph


class _Meter:
    """Bytes that graphs hold for their backwards, each storage once: at present, and at most so far."""

    def __init__(self):
        self.holders, self.present, self.peak = Counter(), 0, 0

    def pack(self, tensor):
        held, storage = _Held(tensor), tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        self.present += size * (not self.holders[place])
        self.holders[place] += 1
        self.peak = max(self.peak, self.present)
        weakref.finalize(held, self.free, place, size)
        return held

    def free(self, place, size):
        self.holders[place] -= 1
        self.present -= size * (not self.holders[place])

    @staticmethod
    def unpack(held):
        return held.tensor


OTHERS = 4000  # bytes of weights and images; an image's activations are 2304


def _network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 16, 3, padding=1), nn.Tanh(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(16, 4)
        return nn.Sequential(*layers).eval()


def _activations(n, attacks, *, batch=4, loss_restarts=1, sanity=0):
    """Bytes that an evaluation of n images lets graphs hold at most."""
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        y = _network()(x).argmax(dim=1)
    meter = _Meter()
    with torch.autograd.graph.saved_tensors_hooks(meter.pack, meter.unpack):
        evaluate(_network(), x, y, attacks=attacks, eps=0.05, loss_steps=2, loss_restarts=loss_restarts,
                 batch_size=batch, sanity=sanity, runtime=Runtime(precision="float32", compile="no"))  # fmt: skip
    assert meter.present == 0
    return meter.peak


@pytest.mark.parametrize(
    "attack",
    [PGD_ERROR, APGD(threat=THREAT, steps=4), APGD(threat=THREAT, steps=4, loss=TargetedDLR()),
     FAB(threat=THREAT, steps=3, targets=2), FAB(threat=THREAT, steps=3, targets=None)],
    ids=["PGD", "APGD", "APGD-T", "FAB-T", "FAB"],
)  # fmt: skip
def test_end_to_end_no_more_than_one_batch_of_activations_is_held(attack):
    one_image = 16 * 36 * 4  # of the convolution's outputs
    few, many = _activations(4, (attack,)), _activations(40, (attack,))
    assert 4 * one_image <= few < 5 * one_image
    assert many <= few + OTHERS
    assert _activations(40, (attack,), batch=8) - many >= 4 * one_image  # it is the batch that decides


def test_end_to_end_searches_without_gradients_hold_none():
    attacks = (Square(threat=THREAT, queries=5), SPSA(threat=THREAT, steps=2, samples=3))
    assert _activations(20, attacks, loss_restarts=0) == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # what it finds in a network without training
def test_end_to_end_looking_for_doubts_holds_no_more():
    assert _activations(12, (PGD_ERROR,), sanity=12) <= _activations(4, (PGD_ERROR,)) + OTHERS
