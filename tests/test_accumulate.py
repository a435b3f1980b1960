"""However a batch is read, its gradient is the same: in parts, by workers, recomputed."""

import tracemalloc
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.engine.functional import IGNORE
from minipeft.lab.saved_tensors import tape_arrays
from minipeft.model.gradient_checkpointing import recomputing
from minipeft.model.layers import RowRNG
from minipeft.train.batch_gradient import batch_gradient, micro_batch_gradient
from minipeft.train.data_parallel import CAN_FORK, process_map, thread_map
from strategies import batch, configs, model

METHODS = [
    mp.Full(),
    mp.LoRA(r=1, target_modules="all-linear", lora_dropout=0.4),
    mp.Bottleneck(m=2),
    mp.Prefix(num_virtual_tokens=2),
    mp.Prompt(num_virtual_tokens=2),
]


def gradient(net, ids, labels, **how):
    """(loss, all gradients in one vector) of a batch, and nothing left behind."""
    net.zero_grad()
    loss = float(batch_gradient(net, ids, labels, seed=(0, 1), **how))
    found = [to_numpy(p.grad).ravel() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    return loss, np.concatenate(found)


def trained(net):
    """The parameters that train."""
    return [p for p in net.parameters() if p.requires_grad]


@given(configs(), st.sampled_from(METHODS), st.data())
def test_parts_and_workers_give_the_gradient_of_the_whole(config, method, data):
    net = model(config.with_(dropout=0.3))
    mp.attach(net, method)
    ids, labels = batch(config, B=5, T=4)
    row = data.draw(st.integers(0, 4))
    labels[row, 1:], labels[row - 1] = IGNORE, IGNORE  # unequal numbers of labels, and none
    loss, whole = gradient(net, ids, labels)
    for parts in (2, 5, 9):
        again, found = gradient(net, ids, labels, micro_batches=parts)
        np.testing.assert_allclose([again, *found], [loss, *whole], rtol=1e-9, atol=1e-12)
    for crew in (thread_map, process_map) if CAN_FORK else (thread_map,):
        with crew(partial(micro_batch_gradient, net), trained(net), 2) as each:
            again, found = gradient(net, ids, labels, micro_batches=4, map_micro_batches=each)
        np.testing.assert_allclose([again, *found], [loss, *whole], rtol=1e-9, atol=1e-12)


@given(configs(), st.sampled_from(METHODS))
def test_recomputing_changes_no_bit(config, method):
    net = model(config.with_(dropout=0.3))
    mp.attach(net, method)
    ids, labels = batch(config)
    loss, whole = gradient(net, ids, labels)
    with recomputing(net):
        again, found = gradient(net, ids, labels)
    assert again == loss and (found == whole).all()
    assert all(not block.active for block in net.blocks)


def test_recomputing_keeps_little():
    config = mp.Config.gpt2(vocab=9, context=16, width=16, layers=6, heads=2)
    net = model(config, precision="float32")
    mp.attach(net, mp.LoRA(r=1))

    def kept():
        loss = net.loss(*batch(config, B=4, T=16))
        return sum(a.nbytes for a in tape_arrays(loss, net.parameters()))

    everything = kept()
    with recomputing(net):
        assert kept() < everything / 4


def test_recomputing_a_parameter_of_all_blocks_gives_the_same_to_rounding():
    config = mp.Config.gpt2(vocab=9, context=16, width=16, layers=3, heads=2)
    net = model(config)
    mp.attach(net, mp.Compacter(m=4, phm_dim=2))
    ids, labels = batch(config)
    loss, whole = gradient(net, ids, labels)
    with recomputing(net):
        again, found = gradient(net, ids, labels)
    assert again == loss
    np.testing.assert_allclose(found, whole, rtol=1e-9, atol=1e-15)


def test_parts_hold_two_copies_of_the_gradients_and_no_more():
    config = mp.Config.gpt2(vocab=9, context=8, width=64, layers=6, heads=1)
    net = model(config, precision="float32")
    ids, labels = batch(config, B=4, T=2)

    def peak(parts):
        net.zero_grad()
        tracemalloc.start()
        batch_gradient(net, ids, labels, parts)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        net.zero_grad()
        return most

    peak(1), peak(4)
    assert peak(4) < peak(1) + 1.2 * 4 * config.size


def test_parts_of_a_batch_with_chosen_rows_are_refused():
    net = mp.load_base()
    mp.attach(net, mp.LoRA(r=1), "a")
    mp.use(net, rows=["a", None] * 2)
    for options in ({"workers": 2}, {"accumulate": 2}):
        with pytest.raises(ValueError, match="so it must be read whole; use accumulate=1"):
            mp.fit(net, mp.Task("gerund"), 1, 4, **options)
    assert mp.fit(net, mp.Task("gerund"), 1, 4).loss


def test_fit_takes_both_as_arguments():
    task, ends = mp.Task("gerund"), []
    for options in ({}, {"workers": 2}, {"accumulate": 3}, {"recompute": True}):
        net = mp.load_base()
        adapter = mp.attach(net, mp.LoRA(r=2, lora_dropout=0.2), rng=0)
        mp.fit(net, task, steps=3, batch_size=8, lr=0.01, **options)
        ends.append(np.concatenate([to_numpy(p.data).ravel() for p in adapter.parameters()]))
    assert (ends[3] == ends[0]).all()
    for end in ends[1:3]:
        np.testing.assert_allclose(end, ends[0], atol=2e-5)


def test_dropout_of_a_row_does_not_depend_on_its_company():
    all_rows = RowRNG((1, 2), range(6))
    some = RowRNG((1, 2), [4, 1])
    for _ in range(2):  # the second draw is another one
        whole = all_rows.random((6, 3), np.float32)
        assert (some.random((2, 3), np.float32) == whole[[4, 1]]).all()
    assert (whole != RowRNG((1, 2), range(6)).random((6, 3), np.float32)).any()
