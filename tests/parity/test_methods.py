"""Every method that HF PEFT has computes, trains and merges as it does there."""

import pytest
from hf import assert_close, difference, hf_logits, hf_loss
from pairs import Pair
from rows import ROWS

from minipeft import functional as F
from minipeft.autograd import no_grad
from minipeft.backend import np
from strategies import batch

# of logits, of gradients, of what 20 steps lead to
PRECISIONS = {"float32": (1e-6, 1e-5, 1e-5), "float64": (1e-13, 1e-12, 1e-12)}

rows = pytest.mark.parametrize("row", ROWS)
# float32 on one model of each shape, float64 on random ones as well
EACH = [("float32", None), ("float64", None), *[("float64", seed) for seed in range(3)]]
each = pytest.mark.parametrize("precision, seed", EACH)


def logits(pair, ids, real=None):
    """(ours, HF's)"""
    with no_grad():
        return pair.ours(ids, real=real).data, hf_logits(pair.theirs, ids, real)


@rows
@each
def test_logits_and_gradients(row, precision, seed):
    off, steep, _ = PRECISIONS[precision]
    pair = Pair(ROWS[row], precision, seed).shake()
    assert pair.adapter.count == sum(p.numel() for p in pair.hf.values())
    ids, labels = batch(pair.config, B=3, T=6)
    ours, theirs = pair.ours(ids), hf_logits(pair.theirs, ids)
    assert difference(ours.data, theirs) <= off
    loss, truth = F.cross_entropy(ours, labels), hf_loss(theirs, labels)
    assert difference(np.array(loss.data), truth) <= off
    loss.backward()
    truth.backward()
    assert_close(pair.gradients(), {name: p.grad for name, p in pair.hf.items()}, steep)


@rows
def test_padding(row):
    pair = Pair(ROWS[row], "float64").shake()
    ids, _ = batch(pair.config, B=3, T=6)
    for side in ROWS[row].padding:
        real = np.arange(6) < np.array([[6], [3], [1]])
        real = real[:, ::-1].copy() if side == "left" else real
        ours, theirs = logits(pair, ids, real)
        assert difference(ours[real], theirs.detach().numpy()[real]) <= 1e-12


@rows
@each
def test_twenty_steps(row, precision, seed):
    _, _, far = PRECISIONS[precision]
    pair = Pair(ROWS[row], precision, seed)
    ours, theirs = pair.train()
    assert difference(ours, theirs) <= far
    assert_close(*pair.trained(), far)


@pytest.mark.parametrize("row", [row for row in ROWS if ROWS[row].ours.folds])
@each
def test_merged_weights(row, precision, seed):
    off, _, _ = PRECISIONS[precision]
    assert_close(*Pair(ROWS[row], precision, seed).shake().merged(), off)
