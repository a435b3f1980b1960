"""Laws of what is kept: the base's bits, the adapter's, and what is written down of them."""

import tempfile
from dataclasses import replace

import minipeft as mp
from laws.case import Random, bits, close, logits, same, shake, sites, steps
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.io.arrays import count_elements
from minipeft.peft.base import adapters, base_parameters, in_use
from minipeft.train.fit import Run, Settings


def law_01_attaching_changes_nothing(case):
    """Attaching changes nothing: the logits are bit-equal."""
    net, (ids, _) = case.base(), case.batch()
    before = logits(net, ids)
    mp.attach(net, case.method, rng=case.seed)
    same(logits(net, ids), before, "logits after attaching")


def law_02_the_base_is_frozen(case):
    """After some steps of training every array of the base has the bits it had."""
    net, _ = case.attached()
    before = bits(net)
    own = {path: to_numpy(p.data).copy() for path, p in adapters(net)["a"].named_parameters()}
    steps(net, case, 2)
    assert bits(net) == before, "the base changed"
    now = {path: to_numpy(p.data) for path, p in adapters(net)["a"].named_parameters()}
    moved = any((own[path] != now[path]).any() for path in own)
    assert moved or case.tokens == 1, "nothing was trained"  # one token: no use for its query


def law_03_the_count(case):
    """Trainable numbers = the formula = the file's, folded.

    The percentages are of the base, and of the base with all that the adapter adds to it.
    """
    net, adapter = case.attached()
    formula = case.method.count(case.config)
    sizes = {path: p.data.size for path, p in base_parameters(net)}
    base, new = (
        sum(sizes.values()),
        formula - sum(sizes.get(path, 0) for path in adapter.copies),
    )
    training = [p for p in net.parameters() if p.requires_grad]
    assert adapter.count == formula, f"counted {adapter.count}, the formula says {formula}"
    assert sum(p.data.size for p in training) == formula, "what trains is not what is counted"
    assert base == case.config.size, "the base is not as large as its Config says"
    told = mp.count(case.config, case.method)
    close(told.percent_of_base, 100 * formula / base, 1e-12, "percentage of the base")
    close(
        told.percent_of_total,
        100 * formula / (base + new),
        1e-12,
        "percentage of base + adapter",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = mp.save_adapter(net, "a", folder) / "adapter_model.safetensors"
        kept = case.method.export_form().count(case.config)
        assert count_elements(path) == kept, f"{count_elements(path)} numbers saved, not {kept}"


def law_05_merging_changes_no_logit(case):
    """Merged logits are the attached ones, to 1e-12 in float64 and 2e-6 in float32.

    Where a norm of nearly equal numbers magnifies rounding, the attached logits are off too, by
    as much as float64 shows: that much is added.
    """
    ids, _ = case.batch()
    exact = logits(case.attached()[0], ids)
    for precise, limit in ((case, 1e-12), (case.in_float32(), 2e-6)):
        net, _ = precise.attached()
        attached = logits(net, ids)
        limit += np.abs(attached - exact).max() / np.abs(exact).max()  # 0 in float64
        if not precise.method.mergeable:
            refused(net, ids, attached)
            continue
        mp.merge(net, "a")
        assert not adapters(net), "the adapter is still there"
        close(logits(net, ids), attached, limit, "merged logits")


def refused(net, ids, attached):
    """Merging must raise, and change nothing."""
    before = bits(net)
    try:
        mp.merge(net, "a")
    except ValueError as error:
        assert "cannot be merged" in str(error), error
    else:
        raise AssertionError("a method that cannot merge did")
    same(logits(net, ids), attached, "logits after a refused merge")
    assert bits(net) == before and list(in_use(net)) == ["a"]


def law_06_unmerge_and_detach_restore_every_bit(case):
    """Unmerging gives back base, adapter and use; detaching gives back the model."""
    case = case.in_float32()
    net = case.base()
    training = [path for path, p in net.named_parameters() if p.requires_grad]
    ids, _ = case.batch()
    before, plain = bits(net), logits(net, ids)
    shake(mp.attach(net, case.method, "a", rng=case.seed), case.seed)
    attached = logits(net, ids)
    if case.method.mergeable:
        for _ in range(3):
            mp.unmerge(mp.merge(net, "a"))
        same(logits(net, ids), attached, "logits after unmerging")
        assert list(in_use(net)) == ["a"] and bits(net) == before, "unmerging left a trace"
    with mp.disabled(net):
        same(logits(net, ids), plain, "logits with the adapter disabled")
    same(logits(net, ids), attached, "logits after disabling")
    mp.detach(net, "a")
    same(logits(net, ids), plain, "logits after detaching")
    assert bits(net) == before, "detaching changed the base"
    assert [path for path, p in net.named_parameters() if p.requires_grad] == training
    assert not any(s.deltas or s.active for s in sites(net)), "a change stayed at its site"


def law_07_merging_is_all_or_nothing(case):
    """A merge that fails at its last weight has changed none."""
    net, adapter = case.attached()
    if not case.method.mergeable:
        return
    last = adapter.parameters()[-1]
    last.data = xp.full(last.shape, xp.nan, dtype=last.dtype)
    ids, _ = case.batch()
    with np.errstate(all="ignore"):
        before, attached = bits(net), logits(net, ids)
        try:
            mp.merge(net, "a")
        except ValueError as error:
            assert "infinite or NaN" in str(error), error
        else:
            raise AssertionError("weights that are NaN were merged")
        assert bits(net) == before and list(in_use(net)) == ["a"]
        np.testing.assert_array_equal(logits(net, ids), attached)


def law_08_saved_is_loaded_bit_for_bit(case):
    """Saved, and loaded into a fresh model: the same logits. Resumed: the same run."""
    net, _ = case.attached()
    ids, _ = case.batch()
    with tempfile.TemporaryDirectory() as folder:
        mp.save_adapter(net, "a", folder)
        fresh = case.base()
        mp.load_adapter(fresh, folder, "b")
        same(logits(fresh, ids), logits(net, ids), "logits of what was loaded")
        wrong_base(case, folder)
        whole, _ = case.attached()
        steps(whole, case, 4)
        half, _ = case.attached()
        steps(half, case, 2).save(f"{folder}/run.safetensors")
        other, _ = case.attached()
        run = Run(other, Random(case), Settings(steps=8, batch_size=3, lr=0.02, warmup=1))
        run.resume(f"{folder}/run.safetensors")
        while run.done < 4:
            run.step()
        same(logits(other, ids), logits(whole, ids), "logits of the resumed run")


def wrong_base(case, folder):
    """Another base of the same shape must be refused, and left as it was."""
    other = replace(case, seed=case.seed + 1).base()
    before = bits(other)
    try:
        mp.load_adapter(other, folder)
    except ValueError as error:
        assert "base" in str(error), error
    else:
        raise AssertionError("an adapter was loaded on a base that it was not trained on")
    assert bits(other) == before and not adapters(other)


def law_09_adapters_do_not_disturb_each_other(case):
    """Two adapters under two names: training one leaves the other; any order of detaching."""
    ids, _ = case.batch()
    results = []
    for first in "ab":
        net, one = case.attached("a")
        alone = logits(net, ids)
        mp.attach(net, case.method, "b", rng=case.seed + 1)
        steps(net, case, 1)
        mp.use(net, "a")
        same(logits(net, ids), alone, "logits of the first adapter after training the second")
        assert all(p.requires_grad for p in one.parameters())
        mp.use(net, "b")
        results.append(logits(net, ids))
        mp.detach(net, first)
        mp.use(net, "b" if first == "a" else "a")
        same(logits(net, ids), results[0] if first == "a" else alone, "logits of what stayed")
        mp.detach(net, "b" if first == "a" else "a")
        same(logits(net, ids), logits(case.base(), ids), "logits after detaching both")
