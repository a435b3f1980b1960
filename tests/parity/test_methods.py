"""Every method that HF PEFT has computes, trains and merges as it does there."""

import copy

import pytest
from hf import assert_close, difference, hf_logits, hf_loss, torch
from pairs import Pair

from methods import ROWS
from minipeft.engine import functional as F
from minipeft.engine.backend import np
from minipeft.engine.tensor import no_grad
from strategies import batch

# of ours: limits of logits and merged weights, of gradients, of what 20 steps lead to
PRECISIONS = {"float32": (1e-6, 1e-5, 1e-5), "float64": (1e-13, 1e-12, 1e-12)}

rows = pytest.mark.parametrize("row", ROWS)
# Precision of ours and of HF's, seed of a random model or None for the fixed one. On a random
# model both are held to the truth, HF's in float64 on the same numbers: the roundings of two
# float32 add up.
EACH = [(kind, kind, None) for kind in PRECISIONS]
EACH += [(kind, "float64", seed) for kind in PRECISIONS for seed in range(3)]
each = pytest.mark.parametrize("precision, theirs, seed", EACH)


def logits(pair, ids, attention_mask=None):
    """(ours, HF's)"""
    with no_grad():
        return pair.ours(ids, attention_mask=attention_mask).data, hf_logits(
            pair.theirs, ids, attention_mask
        )


def exactly(theirs, ids):
    """The logits of HF's model, computed in float64."""
    return hf_logits(copy.deepcopy(theirs).double(), ids).detach()


@rows
@each
def test_logits_and_gradients(row, precision, theirs, seed):
    """Equal up to rounding: HF's own, which depends on the processor, is added to the limit."""
    off, steep, _ = PRECISIONS[precision]
    pair = Pair(ROWS[row], precision, seed, theirs=theirs).shake()
    assert pair.adapter.count == sum(p.numel() for p in pair.hf.values())
    ids, labels = batch(pair.config, B=3, T=6)
    ours, wanted = pair.ours(ids), hf_logits(pair.theirs, ids)
    if precision == theirs == "float32":
        off += difference(wanted.detach().numpy(), exactly(pair.theirs, ids))
    assert difference(ours.data, wanted) <= off
    loss, truth = F.cross_entropy(ours, labels), hf_loss(wanted, labels)
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
def test_twenty_steps(row, precision, theirs, seed):
    """AdamW divides by √v, so where a gradient is about 0 its rounding makes a whole step.

    On random models in float32 that parts a few numbers, and what is held is the norm.
    """
    _, _, far = PRECISIONS[precision]
    pair = Pair(ROWS[row], precision, seed, theirs=theirs)
    assert difference(*pair.train()) <= far
    if precision == theirs:
        assert_close(*pair.trained(), far)
        return
    ours, theirs = pair.trained()
    for name, wanted in theirs.items():
        assert np.linalg.norm(ours[name] - wanted.numpy()) <= far * wanted.norm(), name


MERGED = [name for name, row in ROWS.items() if row.ours.mergeable and row.merged]


@pytest.mark.parametrize("row", MERGED)
@each
def test_merged_weights(row, precision, theirs, seed):
    off, _, _ = PRECISIONS[precision]
    assert_close(*Pair(ROWS[row], precision, seed, theirs=theirs).shake().merged(), off)


def test_hf_pefts_c3a_derives_another_function_by_x():
    """Once this fails, the parity rows of C3A need no derivative of PyTorch's any more."""
    from peft.tuners.c3a.utils import BlockCircularConvolution, get_circulant_fast

    rng = torch.Generator().manual_seed(0)
    x, w, g = (torch.randn(n, generator=rng) for n in ((5, 12), (2, 3, 4), (5, 8)))
    x.requires_grad, w.requires_grad = True, True
    y, same = BlockCircularConvolution.apply(x, w), x @ get_circulant_fast(w).T
    torch.testing.assert_close(y, same)
    (dx, dw), (by_x, by_w) = (torch.autograd.grad(z, (x, w), g) for z in (y, same))
    torch.testing.assert_close(dw, by_w)
    assert (dx - by_x).abs().max() > 0.5 * by_x.abs().max()
