"""Many adapters on one model: choosing, combining, merging one below another."""

import copy
import itertools
import sys
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.peft.combine import KINDS, dare, ties, trimmed
from strategies import batch, model
from test_methods_adapters import shake

# wide enough for the defaults of every method
CONFIG = mp.Config.gpt2(vocab=11, context=32, width=32, layers=2, heads=4, kv_heads=2, ffn=24)
every_kind = pytest.mark.parametrize("kind", KINDS)


def several(*methods, config=CONFIG):
    """A model with these methods attached as 'a', 'b', …, none of them neutral; and ids."""
    base = model(config)
    for i, (name, method) in enumerate(zip("abcd", methods, strict=False)):
        shake(mp.attach(base, method, name, rng=i), seed=i)
    return base, batch(config)[0]


def change(base, name):
    """ΔW of every weight that an adapter changes, as merging makes it: {path: array}."""
    alone = copy.deepcopy(base)
    for other in [*mp.adapters(alone)]:
        if other != name:
            mp.detach(alone, other)
    mp.use(alone, name)
    receipt = mp.merge(alone, name)
    return {
        path: to_numpy(p.data - receipt.before[path].data) for path, p in receipt.after.items()
    }


def logits(base, name, ids):
    """The logits of a model that uses one adapter."""
    mp.use(base, name)
    return to_numpy(base(ids).data)


@every_kind
@pytest.mark.parametrize("method", mp.METHODS)
def test_one_adapter_at_weight_1_is_itself(method, kind):
    base, ids = several(mp.METHODS[method]())
    wanted, numbers = logits(base, "a", ids), mp.adapters(base)["a"].count
    both = mp.combine(base, ["a"], [1.0], kind, "copy")
    assert (to_numpy(base(ids).data) == wanted).all()
    assert both.count == numbers and both.error == 0.0
    shake(both, seed=9)  # a copy of its own
    assert (logits(base, "copy", ids) != wanted).any()
    assert (logits(base, "a", ids) == wanted).all()
    mp.detach(base, "a")
    mp.detach(base, "copy")


@pytest.mark.parametrize("method", mp.METHODS)
def test_whatever_merges_adds_up_or_says_why(method):
    """Every method: the weighted sum of the changes of weights, or a reason and no change."""
    base, ids = several(mp.METHODS[method](), mp.LoRA(2))
    before = logits(base, "b", ids)
    try:
        both = mp.combine(base, ["a", "b"], [0.7, -0.3])
    except ValueError as reason:
        assert "'a'" in str(reason) and list(mp.adapters(base)) == ["a", "b"]
        assert mp.in_use(base) == {"b": None} and (to_numpy(base(ids).data) == before).all()
        return
    together, parts = change(base, "a+b"), [change(base, name) for name in "ab"]
    for path, total in together.items():
        wanted = 0.7 * parts[0].get(path, 0.0) - 0.3 * parts[1].get(path, 0.0)
        assert np.allclose(total, wanted, rtol=0, atol=1e-12)
    assert both.error < 1e-12


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=3),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    st.sampled_from(["linear", "cat"]),
)
def test_linear_and_cat_are_the_weighted_sum(ranks, weights, kind):
    targets = itertools.cycle([("q_proj",), ("q_proj", "v_proj"), ("down_proj", "q_proj")])
    base, ids = several(
        *(mp.LoRA(r, 3.0, 0.0, t) for r, t in zip(ranks, targets, strict=False))
    )
    names, weights = list("abcd"[: len(ranks)]), weights[: len(ranks)]
    changes = [change(base, name) for name in names]
    both = mp.combine(base, names, weights, kind, "all")
    if any(weights):
        assert both.error < 1e-12 and all(error < 1e-11 for error in both.errors.values())
    assert both.count == both.method.count(CONFIG)
    combined = to_numpy(base(ids).data)
    mp.use(base, None)
    for path, p in base.named_parameters():
        for weight, part in zip(weights, changes, strict=True):
            if path in part:
                p.data = p.data + xp.asarray(weight * part[path])
    assert np.allclose(to_numpy(base(ids).data), combined, rtol=0, atol=1e-11)


def test_cat_needs_room_for_all_ranks():
    base, ids = several(mp.LoRA(8), mp.LoRA(9))  # of a (16, 32) weight
    before = logits(base, "b", ids)
    with pytest.raises(ValueError, match="use kind='linear'"):
        mp.combine(base, ["a", "b"], [1.0, 1.0], "cat")
    assert list(mp.adapters(base)) == ["a", "b"] and (to_numpy(base(ids).data) == before).all()


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8))
def test_svd_is_the_best_of_its_rank(r_a, r_b, rank):
    """Its error is the tail of the singular values (Eckart & Young), and it is reported."""
    base, _ = several(mp.LoRA(r_a), mp.LoRA(r_b))
    parts = [change(base, name) for name in "ab"]
    both = mp.combine(base, ["a", "b"], [0.7, 0.3], "svd", rank=rank)
    tail = size = 0.0
    for path, error in both.errors.items():
        wanted = 0.7 * parts[0][f"{path}.weight"] + 0.3 * parts[1][f"{path}.weight"]
        s = np.linalg.svd(wanted, compute_uv=False)
        assert abs(error - np.linalg.norm(s[rank:]) / np.linalg.norm(s)) < 1e-12
        tail, size = tail + (s[rank:] ** 2).sum(), size + (s**2).sum()
    assert abs(both.error - np.sqrt(tail / size)) < 1e-12
    assert both.method.r <= rank


def test_svd_has_the_largest_rank_by_default():
    base, _ = several(mp.LoRA(3), mp.LoRA(2))
    assert mp.combine(base, ["a", "b"], [0.5, 0.5], "svd").method.r == 3


@every_kind
def test_the_error_told_is_the_error_made(kind):
    base, _ = several(mp.LoRA(3), mp.LoRA(2, target_modules=("k_proj", "q_proj")))
    parts = [change(base, name) for name in "ab"]
    both = mp.combine(base, ["a", "b"], [0.7, 0.3], kind, "c")
    made, off, size = change(base, "c"), 0.0, 0.0
    for path, total in made.items():
        wanted = 0.7 * parts[0].get(path, 0.0) + 0.3 * parts[1].get(path, 0.0)
        error = np.linalg.norm(total - wanted)
        assert (
            abs(both.errors[path.removesuffix(".weight")] - error / np.linalg.norm(wanted))
            < 1e-11
        )
        off, size = off + error**2, size + (wanted**2).sum()
    assert abs(both.error - np.sqrt(off / size)) < 1e-11
    assert f"{both.error:.1e}" in repr(both) and kind in repr(both)
    assert (both.error > 0.01) == (kind in ("svd", "ties", "dare"))


def test_ties_by_hand():
    a, b = xp.array([[4.0, -1.0, 3.0, 0.5]]), xp.array([[2.0, 3.0, -5.0, 0.1]])
    assert trimmed(a, 0.5).tolist() == [[4.0, 0.0, 3.0, 0.0]]
    assert ties([a, b], [1.0, 1.0], 0.5).tolist() == [[4.0, 3.0, -5.0, 0.0]]
    assert ties([a, b], [1.0, 1.0], 1.0).tolist() == [[3.0, 3.0, -5.0, 0.3]]
    assert ties([a, b], [2.0, 1.0], 1.0).tolist() == [[5.0, 3.0, 6.0, 0.55]]


@given(st.floats(0.1, 1.0), st.integers(0, 99))
def test_dare_drops_its_share_and_keeps_the_mean(density, seed):
    ones = xp.ones((60, 60))
    mixed = to_numpy(dare([ones, ones], [1.0, 0.0], density, np.random.default_rng(seed)))
    kept = (mixed != 0).mean()
    assert abs(kept - density) < 6 * np.sqrt(density * (1 - density)) / 60 + 1e-12
    assert np.allclose(mixed[mixed != 0], 1 / density)


def test_dare_is_seeded():
    base, ids = several(mp.LoRA(2), mp.LoRA(2))
    for name, seed in (("x", 0), ("y", 0), ("z", 1)):
        mp.combine(base, ["a", "b"], [0.7, 0.3], "dare", name, rng=seed)
    x, y, z = (logits(base, name, ids) for name in "xyz")
    assert (x == y).all() and (x != z).any()


@pytest.mark.parametrize("kind", ["ties", "dare"])
def test_a_single_adapter_is_trimmed_if_asked(kind):
    base, ids = several(mp.LoRA(2))
    wanted = logits(base, "a", ids)
    assert mp.combine(base, ["a"], [1.0], kind, "b", density=0.5).error > 0.1
    mp.combine(base, ["a"], [1.0], kind, "c", density=1.0)
    assert np.allclose(to_numpy(base(ids).data), wanted, rtol=0, atol=1e-12)


@every_kind
def test_a_combination_is_an_adapter_like_others(kind, tmp_path):
    """It is saved and loaded, merged, detached, mixed by rows, in float32 too."""
    base = model(CONFIG, precision="float32")
    for i, name in enumerate("ab"):
        for p in mp.attach(base, mp.LoRA(2 + i), name, rng=i).parameters():
            noise = 0.3 * np.random.default_rng(i).standard_normal(p.shape)
            p.data += xp.asarray(noise, "float32")
    ids, _ = batch(CONFIG)
    first = logits(base, "a", ids)
    both = mp.combine(base, ["a", "b"], [0.5, 0.5], kind, "both")
    combined = to_numpy(base(ids).data)
    assert combined.dtype == np.float32
    mp.use(base, rows=["both", "a", "both"])
    wanted = np.stack([combined[0], first[1], combined[2]])
    assert np.allclose(to_numpy(base(ids).data), wanted, atol=2e-6)
    mp.save_adapter(base, "both", tmp_path)
    fresh = model(CONFIG, precision="float32")
    mp.load_adapter(fresh, tmp_path)
    assert (to_numpy(fresh(ids).data) == combined).all()
    mp.use(base, "both")
    mp.merge(base, both.name)
    assert np.allclose(logits(base, None, ids), combined, atol=1e-5)


WRONG = {
    "no such kind": (["a", "b"], [1, 1], dict(kind="mean")),
    "weights": (["a", "b"], [1], {}),
    "not finite": (["a", "b"], [1, float("nan")], {}),
    "none": ([], [], {}),
    "one string": ("ab", [1, 1], {}),
    "twice the same": (["a", "a"], [1, 1], {}),
    "unknown": (["a", "x"], [1, 1], {}),
    "a prefix": (["a", "c"], [1, 1], {}),
    "all parameters": (["a", "d"], [1, 1], {}),
    "name in use": (["a", "b"], [1, 1], dict(name="a")),
    "rank 0": (["a", "b"], [1, 1], dict(kind="svd", rank=0)),
    "rank of cat": (["a", "b"], [1, 1], dict(kind="cat", rank=2)),
    "density 0": (["a", "b"], [1, 1], dict(kind="ties", density=0)),
    "density of linear": (["a", "b"], [1, 1], dict(density=0.5)),
}


@pytest.mark.parametrize("names, weights, options", WRONG.values(), ids=WRONG)
def test_what_cannot_be_combined_is_refused(names, weights, options):
    base, ids = several(mp.LoRA(2), mp.LoRA(2), mp.Prefix(2), mp.Full())
    before = logits(base, "b", ids)
    with pytest.raises(ValueError):
        mp.combine(base, names, weights, **options)
    assert (
        list(mp.adapters(base)) == list("abcd") and (to_numpy(base(ids).data) == before).all()
    )


def test_use_copies_no_array():
    """Switching takes memory for the sites, not for their weights."""
    config = CONFIG.with_(width=512, ffn=2048)
    with mp.dtype("float32"):
        base = mp.Transformer(config, 0)
    for name in "ab":
        mp.attach(base, mp.LoRA(8), name)
    tracemalloc.start()
    for name in ("a", "b", None, ["a", "b"]):
        mp.use(base, name)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000  # one 512 × 512 weight alone is a million bytes


@pytest.mark.parametrize("method", ["lora", "prefix", "bitfit"])
def test_use_does_not_ask_how_many_others_there_are(method):
    """Switching takes the same calls among many adapters as among two."""
    base, counts = model(CONFIG), []
    for i in range(9):
        mp.attach(base, mp.METHODS[method](), str(i))
        mp.use(base, "0")
        if i in (1, 8):
            counts.append(calls(lambda: mp.use(base, "1")))
    assert counts[0] == counts[1] > 10


def calls(work):
    """How many functions, of Python and of C, are entered while it works."""
    entered = []
    sys.setprofile(lambda frame, event, _: entered.append(event) if "call" in event else None)
    try:
        work()
    finally:
        sys.setprofile(None)
    return len(entered)


@pytest.mark.parametrize(
    "below", [mp.LoRA(2), mp.DoRA(2), mp.IA3()], ids=["lora", "dora", "ia3"]
)
@pytest.mark.parametrize("method", mp.METHODS)
def test_another_served_on_top_of_a_merged_one(method, below, tmp_path):
    """As both at once did, or refused; and its file does not fit the merged base."""
    base, ids = several(below, mp.METHODS[method]())
    mp.use(base, "b")
    mp.save_adapter(base, "b", tmp_path)
    mp.use(base, ["a", "b"])
    wanted = to_numpy(base(ids).data)
    try:
        receipt = mp.merge(base, "a")
    except ValueError as reason:
        assert "'b'" in str(reason) and (to_numpy(base(ids).data) == wanted).all()
        return
    assert np.allclose(logits(base, "b", ids), wanted, rtol=0, atol=1e-11)
    with pytest.raises(ValueError, match="nothing merged into it"):
        mp.load_adapter(base, tmp_path, "again")
    mp.unmerge(receipt)
    mp.use(base, ["a", "b"])
    assert (to_numpy(base(ids).data) == wanted).all()


@pytest.mark.parametrize("method", mp.METHODS)
def test_a_detached_adapter_can_be_attached_again(method):
    base, ids = several(mp.METHODS[method](), mp.LoRA(2))
    wanted = logits(base, "a", ids)
    adapter = mp.detach(base, "a")
    assert mp.attach(base, adapter) is adapter and mp.in_use(base) == {"a": None}
    assert (to_numpy(base(ids).data) == wanted).all()
    with pytest.raises(ValueError, match="'a' is already attached"):
        mp.attach(base, adapter)
    with pytest.raises(ValueError, match="'a' was never attached to this model"):
        mp.attach(model(CONFIG), adapter)


@pytest.mark.parametrize("operation", [mp.attach, mp.merge, mp.detach, mp.quantize])
def test_what_is_no_model_is_said_to_be_none(operation):
    with pytest.raises(TypeError, match=r"expected a model, such as .*, got 7"):
        operation(7, mp.LoRA()) if operation is mp.attach else operation(7)


def test_a_merge_is_undone_once():
    base, _ = several(mp.LoRA(2))
    receipt = mp.merge(base, "a")
    mp.unmerge(receipt)
    for _ in range(2):  # also when the adapter has gone
        with pytest.raises(ValueError, match="the merge of 'a' was undone already"):
            mp.unmerge(receipt)
        if mp.adapters(base):
            mp.detach(base, "a")


def test_a_base_that_was_trained_after_a_merge_cannot_be_what_it_was():
    base, ids = several(mp.LoRA(2))
    receipt = mp.merge(base, "a")
    assert all(p.requires_grad for p in base.parameters())
    mp.fit(base, mp.Examples(ids[:, :-1], ids[:, 1:]), 1, 2, label=None)
    with pytest.raises(ValueError, match="the base was changed since 'a' was merged"):
        mp.unmerge(receipt)
