"""Numbers that must be right: copies of a model, masks, precision, gradients of their own, and
what a run leaves behind. Each property has a planted bug that it must see.
"""

import copy
import functools
import itertools
import pickle
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from cases import CASES, cases
from minipeft.engine import functional as F
from minipeft.engine import ops
from minipeft.engine import tensor as autograd
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.optimizer import AdamW
from minipeft.engine.tensor import Tensor
from minipeft.model.kv_cache import causal
from minipeft.model.layers import Parameter
from planted import planted
from strategies import batch, configs, model
from test_methods_adalora import CONFIG, DATA

SMALL = dict(vocab=9, context=16, width=8, layers=2, heads=2)
SHAPES = pytest.mark.parametrize("shape", [mp.Config.gpt2, mp.Config.llama])
HF_STYLE = "the labels are the ids themselves"


def gradients_by_path(net, ids, labels):
    """{path: gradient} of the loss."""
    net.zero_grad()
    net.loss(ids, labels).backward()
    return {path: to_numpy(p.grad) for path, p in net.named_parameters()}


def equal(found, expected):
    assert found.keys() == expected.keys()
    for path, g in expected.items():
        assert (found[path] == g).all(), path


# Leaves: where they were made does not matter


def check_a_copy_from_elsewhere(make=lambda net: pickle.loads(pickle.dumps(net))):
    net = model(mp.Config.gpt2(**SMALL))  # tied: the table is the first leaf and the last
    ids, labels = batch(net.config)
    expected = gradients_by_path(net, ids, labels)
    for start in (0, 10**9):  # a process that counted less far, or further
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(autograd, "_numbers", itertools.count(start))
            again = make(net)
            equal(gradients_by_path(again, ids, labels), expected)
            assert all(p.node.array is p.data for p in again.parameters())


@pytest.mark.parametrize("make", [None, copy.deepcopy])
def test_a_copied_model_has_the_same_gradients(make):
    check_a_copy_from_elsewhere(*[make] if make else [])


def test_a_model_sent_to_another_process_has_the_same_gradients():
    net = model(mp.Config.gpt2(**SMALL))
    ids, labels = batch(net.config)
    code = "import pickle, sys; net, *data = pickle.load(sys.stdin.buffer); "
    code += "net.loss(*data).backward(); "
    code += "grads = {path: p.grad for path, p in net.named_parameters()}; "
    code += "pickle.dump(grads, sys.stdout.buffer)"
    command, sent = [sys.executable, "-c", code], pickle.dumps((net, ids, labels))
    received = subprocess.run(command, input=sent, capture_output=True, check=True).stdout
    found = {path: to_numpy(g) for path, g in pickle.loads(received).items()}
    equal(found, gradients_by_path(net, ids, labels))


@given(st.integers(0, 99))
def test_a_tensor_and_its_copy_in_one_loss(seed):
    w = Parameter(np.random.default_rng(seed).standard_normal((2, 3)))
    y = w * 3.0  # on the tape: the copy has a tape and a leaf of its own
    for a in (w, y):
        b = copy.deepcopy(a)
        found = list(autograd.gradients((a * b).sum()).values())
        factor = 3.0 if a is y else 1.0
        assert len(found) == 2
        for g in found:
            np.testing.assert_allclose(to_numpy(g), factor * to_numpy(a.data), rtol=1e-6)


# Tensors: lists, NumPy's numbers, and NumPy's functions


def test_lists_and_numbers_become_arrays():
    a, b = Tensor([1.0, 2.0]), Tensor((3, 4), requires_grad=True)
    assert to_numpy((a * 2).data).tolist() == [2, 4] and to_numpy((a + b).data).tolist() == [
        4,
        6,
    ]
    assert a.dtype == b.dtype == (a * b).dtype == "float32"
    (b * [2.0, 3.0]).sum().backward()
    assert to_numpy(b.grad).tolist() == [2, 3]
    for number in (3.0, 3, xp.asarray(3.0)):
        x = Tensor(number, requires_grad=True)
        (x * x).backward()
        assert float(x.grad) == 6
    with mp.dtype("float64"):
        assert Tensor([1.0]).dtype == "float64"
    for bad in ([[1.0], [1.0, 2.0]], ["a"], {"a": 1}):
        with pytest.raises(ValueError, match="made of numbers, in rows of equal lengths; got"):
            Tensor(bad)


NUMBERS = [np.float64(1.5), np.sqrt(8), np.array(2.5), np.int64(3), np.float32(2), np.bool_(1)]


def check_precision():
    for number in NUMBERS:
        for f in (ops.add, ops.sub, ops.mul, ops.div, functools.partial(ops.where, True)):
            for swap in (False, True):
                x = Tensor(xp.ones(3, "float32"), requires_grad=True)
                y = f(number, x) if swap else f(x, number)
                (g,) = autograd.gradients(y.sum()).values()
                assert y.dtype == g.dtype == "float32", (f, number)
                assert (
                    y.data == f(*([float(number), x] if swap else [x, float(number)])).data
                ).all()
        y = Tensor(xp.ones(3, "float32")) ** number
        assert y.dtype == "float32"


def test_a_number_of_numpy_changes_no_precision():
    check_precision()
    double = Tensor(xp.asarray(2.0))  # a Tensor has a precision of its own
    assert (Tensor(xp.ones(3, "float32")) * double).dtype == "float64"


def test_numpy_meets_tensors():
    a, x = np.arange(4.0).reshape(2, 2), Tensor(xp.asarray([[1.0, 2.0], [3.0, 5.0]]))
    assert (to_numpy((xp.asarray(a) @ x).data) == a @ to_numpy(x.data)).all()
    assert (to_numpy(x.T.data) == to_numpy(x.data).T).all()
    assert (to_numpy((x**3).data) == to_numpy(x.data) ** 3).all()
    assert np.asarray(x).dtype == x.dtype and (np.asarray(x) == to_numpy(x.data)).all()
    assert np.array(x, dtype="float32").dtype == "float32"
    assert not np.shares_memory(np.array(x, copy=True), to_numpy(x.data))
    with pytest.raises(ValueError, match="an exponent is a number, got Tensor"):
        x**x
    for bad in (2.0, np.float64(2.0), np.ones(2)):
        with pytest.raises(ValueError, match=r"matmul needs matrices, got .*\(2, 2\)"):
            bad @ x


# Gradients: memory of their own


def check_own_gradients(name):
    @given(cases(name))
    def property(case):
        f, arrays = case
        leaves = [Tensor(xp.asarray(a), requires_grad=True) for a in arrays]
        f(*leaves).sum().backward()
        grads = [to_numpy(x.grad) for x in leaves]
        for g in grads:
            g *= 0.5  # a read-only one would raise
        for a, b in itertools.combinations([*grads, *(to_numpy(x.data) for x in leaves)], 2):
            assert not np.shares_memory(a, b)

    property()


@pytest.mark.parametrize("name", CASES)
def test_gradients_share_no_memory(name):
    check_own_gradients(name)


def check_gradients_apart():
    x, y = (Tensor(xp.ones(3), requires_grad=True) for _ in "xy")
    ((x + y) * 2.0).sum().backward()
    x.grad *= 0.5
    assert to_numpy(y.grad).tolist() == [2, 2, 2]


def test_the_gradients_of_a_sum_are_apart():
    check_gradients_apart()


# A weight that is written between forward and backward


WRITES = {
    "assigned": lambda w, optimizer: setattr(w, "data", w.data * 2.0),
    "in place": lambda w, optimizer: setattr(w, "data", w.data.__imul__(2.0)),
    "filled": lambda w, optimizer: w.data.__setitem__(..., 2.0),
    "stepped": lambda w, optimizer: optimizer.step(0.1),
}


def check_written(write):
    w, x = Parameter(np.ones((2, 2))), Tensor(xp.ones((3, 2), "float32"), requires_grad=True)
    w.grad = xp.ones((2, 2), "float32")
    before, optimizer = F.linear(x, w).sum(), AdamW([w])
    write(w, optimizer)
    with pytest.raises(RuntimeError, match="a weight was written after the loss was computed"):
        before.backward()
    assert x.grad is None and (to_numpy(w.grad) == 1).all()
    w.grad = None
    F.linear(x, w).sum().backward()
    assert (to_numpy(x.grad) == 2 * to_numpy(w.data)[0]).all() and w.grad is not None


def check_unseen_step():
    """A step that moves none of the values that are compared."""
    w = Parameter(np.ones((1, 40)))
    y, w.grad = (w * w).sum(), xp.zeros((1, 40), "float32")
    w.grad[0, 1] = 1.0
    AdamW([w], weight_decay=0.0).step(0.1)
    with pytest.raises(RuntimeError, match="a weight was written"):
        y.backward()


def test_every_step_is_noticed():
    check_unseen_step()


@pytest.mark.parametrize("name", WRITES)
def test_a_weight_written_before_backward_is_noticed(name):
    if name == "filled" and xp is not np:
        pytest.skip("values on a device are not compared: the host would wait")
    check_written(WRITES[name])


# Underflow, and masks


@SHAPES
def test_nothing_raises_where_numpy_is_told_to(shape):
    net, data = model(shape(**SMALL), precision="float32"), DATA
    mp.attach(net, mp.LoRA(r=2))
    data = mp.Examples(DATA.ids % 9, np.where(DATA.labels < 0, IGNORE, DATA.labels % 9))
    with np.errstate(all="raise"):
        net([[1, 2, 3]], attention_mask=[[0, 1, 1]])
        net.loss(data.ids, data.labels).backward()
        for p in net.parameters():
            p.data *= 1.0 + 3.0 * (p.ndim == 2)  # sharp: exponentials of −100 and less
        net.loss(data.ids, data.labels).backward()
        mp.fit(net, data, 2, 4, label=None)
        mp.evaluate(net, data)
        mp.generate(net, [[1, 2], [3]], 3)


def check_masks(size, masked=None):
    """Earlier queries see no later key, however large q and k are."""
    rng = np.random.default_rng(0)
    q, k, v = (xp.asarray(rng.standard_normal((2, 2, 4, 3)) * s) for s in (size, size, 1.0))
    mask = causal(4, 4, "float64")
    y = F.attention(q, k, v, mask).data
    k2, v2 = k.copy(), v.copy()
    k2[:, :, 2:], v2[:, :, 2:] = -k[:, :, 2:], 100.0
    assert (F.attention(q, k2, v2, mask).data[:, :, :2] == y[:, :, :2]).all()


@pytest.mark.parametrize("size", [1.0, 1e10, 1e16, 1e60])
def test_no_score_is_large_enough_to_be_seen(size):
    check_masks(size)


def check_hidden_rows():
    rng = np.random.default_rng(1)
    q, k, v = (Tensor(xp.asarray(rng.standard_normal((1, 2, 3, 4))), True) for _ in "qkv")
    mask = xp.zeros((3, 3))
    mask[1] = -xp.inf
    y = F.attention(q, k, v, mask)
    assert (y.data[:, :, 1] == 0).all() and bool(xp.isfinite(y.data).all())
    (y * y).sum().backward()
    assert all(bool(xp.isfinite(x.grad).all()) for x in (q, k, v))
    assert (q.grad[:, :, 1] == 0).all() and (q.grad[:, :, 0] != 0).all()
    assert (F.softmax(xp.zeros((2, 3)), mask[:2]).data[1] == 0).all()


def test_a_query_that_sees_no_key_gives_zeros():
    check_hidden_rows()


@given(configs(), st.integers(0, 9))
def test_ordinary_masks_give_the_bits_of_large_finite_ones(config, seed):
    net, (ids, _) = model(config, seed), batch(config, 3, 5, seed)
    is_token = np.arange(5) >= np.array([[0], [2], [4]])
    found = to_numpy(net(ids, attention_mask=is_token).data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minipeft.model.kv_cache.MASKED", -1e30)
        expected = to_numpy(net(ids, attention_mask=is_token).data)
    assert (found[is_token] == expected[is_token]).all()


# AdamW, evaluate, Examples


def check_late_parameter(skip):
    """A parameter whose first gradients are missing learns as if it had come later."""
    with mp.dtype("float64"):
        late, alone = Parameter(np.ones((2, 2))), Parameter(np.ones((2, 2)))
    both, one = AdamW([Parameter(np.ones(2)), late]), AdamW([alone])
    for step in range(skip + 3):
        g = xp.full((2, 2), 1.0 + step)
        both.parameters[0].grad, late.grad = xp.ones(2), g if step >= skip else None
        both.step(0.1)
        if step >= skip:
            alone.grad = g
            one.step(0.1)
    assert (late.data == alone.data).all()


@pytest.mark.parametrize("skip", [0, 1, 100])
def test_bias_is_corrected_by_a_parameters_own_steps(skip):
    check_late_parameter(skip)


def test_own_steps_are_in_a_checkpoint(tmp_path):
    run = mp.train.fit.Run(model(CONFIG), DATA, mp.train.fit.Settings(4, 4, 0.01))
    run.step()
    run.optimizers[0].skipped[0] = 1
    run.save(tmp_path / "run")
    again = mp.train.fit.Run(model(CONFIG), DATA, run.settings)
    again.resume(tmp_path / "run")
    assert again.optimizers[0].skipped == run.optimizers[0].skipped


def check_rows_without_labels():
    net, labels = model(CONFIG), DATA.labels.copy()
    few = mp.Examples(DATA.ids[:2], labels[:2])
    labels[2:] = IGNORE
    more = mp.Examples(DATA.ids, labels)
    assert mp.evaluate(net, more, 3) == mp.evaluate(net, few)
    labels[:, :2] = to_numpy(net(DATA.ids).data).argmax(axis=-1)[:, :2]
    labels[:2, 2:], labels[2:] = IGNORE, IGNORE
    assert mp.evaluate(net, mp.Examples(DATA.ids, labels)).exact == 1.0


def test_rows_without_labels_have_no_answer():
    check_rows_without_labels()


def test_batches_leave_out_rows_without_labels():
    labels = DATA.labels.copy()
    labels[1:] = IGNORE
    data, net = mp.Examples(DATA.ids, labels), model(CONFIG)
    history = mp.fit(net, data, 20, 2, label=None)  # most batches would have no label at all
    assert len(history.loss) == 20 and history.loss[-1] < history.loss[0]
    one = mp.Examples(DATA.ids[:1], DATA.labels[:1])
    assert (data.batch(3, 4, 0)[0] == one.batch(3, 4, 0)[0]).all()


def padded(front):
    """(ids, labels, mask) of rows of unequal length, 0 the padding, in front or behind."""
    rng = np.random.default_rng(3)
    ids, labels, mask = np.zeros((5, 7), int), np.full((5, 7), IGNORE), np.zeros((5, 7), int)
    for row, n in enumerate([3, 7, 4, 5, 6]):
        at = slice(7 - n, 7) if front else slice(0, n)
        text = rng.integers(1, CONFIG.vocab, n + 1)
        ids[row, at], labels[row, at], mask[row, at] = text[:-1], text[1:], 1
    return ids, labels, mask


def check_padding_in_front():
    right, (ids, labels, mask) = padded(front=False), padded(front=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected, found = mp.Examples(*right[:2]), mp.Examples(ids, labels, mask)
    net = model(CONFIG)
    assert (found.ids == expected.ids).all() and (found.labels == expected.labels).all()
    assert mp.evaluate(net, found) == mp.evaluate(net, expected)
    labels[ids == 0] = 5  # what stands in the padding is never learnt
    assert (mp.Examples(ids, labels, mask).labels == expected.labels).all()


def test_padding_is_moved_behind_the_tokens():
    check_padding_in_front()


def test_padding_in_front_gives_a_warning():
    ids, labels, _ = padded(front=True)
    with pytest.warns(UserWarning, match="begin with padding, token 0, .* pass attention_mask"):
        mp.Examples(ids, labels)


@given(st.integers(0, 999), st.integers(1, 6), st.integers(1, 8), st.integers(2, 30))
def test_ordinary_examples_give_no_warning_and_no_error(seed, N, T, vocab):
    text = np.random.default_rng(seed).integers(0, vocab, (N, T + 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mp.Examples(text[:, :-1], text[:, 1:])
        mp.Examples(*padded(front=False)[:2])


def test_labels_that_are_the_ids_are_refused():
    ids, _, mask = padded(front=False)
    for given_labels in (ids, np.where(mask == 1, ids, IGNORE)):
        with pytest.raises(ValueError, match=HF_STYLE):
            mp.Examples(ids, given_labels)
    same = np.full((2, 5), 4)
    assert len(mp.Examples(same, same)) == 2  # moved or not, these are the labels


# What a run leaves behind


@pytest.mark.parametrize("saving", [False, True])
def test_the_last_update_is_checked(tmp_path, saving):
    net = model(CONFIG, precision="float32")
    mp.attach(net, mp.LoRA(r=2))
    before = {path: p.data.copy() for path, p in net.named_parameters()}
    path = tmp_path / "run" if saving else None
    with pytest.raises(FloatingPointError, match="step 1 made a weight that is not finite"):
        mp.fit(net, DATA, 1, 4, lr=1e38, warmup=0, weight_decay=1e38, checkpoint=path)
    assert all((p.data == before[path]).all() for path, p in net.named_parameters())
    assert not (tmp_path / "run").exists()


def check_second_run():
    """A second AdaLoRA run has as many ranks as the first left; what was pruned stays so."""
    net = model(CONFIG)
    adapter = mp.attach(net, mp.AdaLoRA(init_r=4, target_r=1, tinit=1, tfinal=2, deltaT=3))
    mp.fit(net, DATA, 12, 4, lr=0.05, warmup=0, label=None)
    gone = {path: to_numpy(d.lora_E.data) == 0 for path, d in adapter.deltas.items()}
    left = sum((~g).sum() for g in gone.values())
    assert left == len(gone)
    was = to_numpy(net(DATA.ids).data)
    history = mp.fit(net, DATA, 12, 4, lr=0.05, warmup=0, label=None)
    assert {sum(ranks) for ranks in zip(*history.ranks.values(), strict=True)} == {left}
    for path, delta in adapter.deltas.items():
        assert (to_numpy(delta.lora_E.data)[gone[path]] == 0).all()
    assert (to_numpy(net(DATA.ids).data) != was).any()


def test_a_second_adalora_run_keeps_the_budget():
    check_second_run()


@SHAPES
def test_what_was_written_is_kept_when_the_context_ends(shape):
    net = model(shape(**SMALL))
    whole = mp.generate(net, [[1, 2, 3]], 14)[0]
    never = (
        next(token for token in range(9) if token not in whole) if len(set(whole)) < 9 else 0
    )
    stopped = mp.generate(net, [[1, 2, 3]], 99, stop=never)[0]
    assert stopped == whole[: whole.index(never) + 1 if never in whole else 14]
    with pytest.raises(ValueError, match="more than the context"):
        mp.generate(net, [[1, 2, 3]], 15)
    mp.attach(net, mp.Prefix(num_virtual_tokens=2))
    assert len(mp.generate(net, [[1, 2, 3]], 99, stop=8)[0]) <= 12


# Planted bugs, which only these tests see


BUGS = {  # {what: (module, right, wrong, the check that must fail)}
    "a node that is unpickled keeps its number": (
        "engine.tensor", "for name, part in state[1].items():\n    setattr(self, name, part)\n"
        "self.number = next(_numbers)", "for name, part in state[1].items():\n"
        "    setattr(self, name, part)", check_a_copy_from_elsewhere),
    "an assignment does not number the leaf anew": (
        "engine.tensor", "self.node.array, self.node.number = a, next(_numbers)", "pass",
        functools.partial(check_written, WRITES["assigned"])),
    "backward does not look at a leaf": (
        "engine.tensor", "source, vjp = edges.pop()\nsource.look()",
        "source, vjp = edges.pop()",
        functools.partial(check_written, WRITES["filled"])),
    "AdamW says nothing of its writes": (
        "engine.optimizer", "p.data = p.data", "pass", check_unseen_step),
    "a NumPy number keeps its precision": (
        "engine.tensor", "a.item() if isinstance(a, (np.generic, np.ndarray)) and a.ndim == 0 "
        "else a", "a", check_precision),
    "two leaves share a gradient": (
        "engine.tensor", "isinstance(g, xp.ndarray) and g.base is None and id(g) not in taken",
        "isinstance(g, xp.ndarray) and g.base is None",
        check_gradients_apart),
    "a leaf gets a view": (
        "engine.tensor", "isinstance(g, xp.ndarray) and g.base is None and id(g) not in taken",
        "id(g) not in taken", functools.partial(check_own_gradients, "sum")),
    "a query that sees no key gives NaN": (
        "engine.functional", "xp.maximum(p.sum(axis=-1, keepdims=True), 1.0)",
        "p.sum(axis=-1, keepdims=True)", check_hidden_rows),
    "bias corrected by the run's steps": (
        "engine.optimizer", "t = self.steps - self.skipped[i]", "t = self.steps",
        functools.partial(check_late_parameter, 100)),
    "rows without labels count as exact": (
        "train.fit", "Score(nats / tokens, exact / answers)",
        "Score(nats / tokens, exact / len(examples))", check_rows_without_labels),
    "padding in front stays there": (
        "train.data", 'np.argsort(~is_token, axis=1, kind="stable")',
        'np.argsort(is_token, axis=1, kind="stable")', check_padding_in_front),
    "pruned ranks come back": (
        "peft.methods.adalora", "self.lora_B.data *= left", "pass", check_second_run),
}  # fmt: skip


@pytest.mark.skipif(xp is not np, reason="a device has no views that cannot be written")
@pytest.mark.parametrize("what", BUGS)
def test_a_planted_bug_is_seen(what):
    module, right, wrong, check = BUGS[what]
    with planted(module, right, wrong), np.errstate(all="ignore"):
        with pytest.raises((AssertionError, RuntimeError, pytest.fail.Exception, ValueError)):
            check()
    check()


def test_the_finite_mask_is_seen(monkeypatch):
    monkeypatch.setattr("minipeft.model.kv_cache.MASKED", -1e30)
    with pytest.raises(AssertionError):
        check_masks(1e16)
