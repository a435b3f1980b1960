"""What is special to LoRA and each of its relatives."""

import json
import math
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.optimizer import AdamW
from minipeft.engine.tensor import no_grad
from minipeft.io.checkpoint import method_from_config
from minipeft.model.layers import Linear
from minipeft.peft.methods.dora import DoRADelta
from minipeft.peft.methods.lokr import factors
from minipeft.peft.methods.lora import leading
from minipeft.train.batch_gradient import batch_gradient
from minipeft.train.fit import Run, Settings
from spec import proves
from strategies import batch, configs, model
from test_methods_adapters import arrays, shake

# q, o (8, 8), k, v (4, 8), up (6, 8), down (8, 6), head (11, 8)
SIZES = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=6, init_std=0.3)
CONFIG = mp.Config.gpt2(**SIZES)
SHAPES = {(o, i) for o, i in CONFIG.linear_shapes.values()}
Q = ("q_proj",)


def attached(method, config=CONFIG, **options):
    """(model, adapter) with nothing neutral."""
    base = model(config)
    adapter = mp.attach(base, method, **options)
    shake(adapter)
    return base, adapter


def logits(base, ids):
    with no_grad():
        return to_numpy(base(ids).data)


def changes(base, name="default"):
    """{path: (weight, ΔW)} as merging makes it."""
    table, receipt = base.wte.weight, mp.merge(base, name)  # which a tied head has before
    before = {path: table if p is None else p for path, p in receipt.before.items()}
    mp.unmerge(receipt)
    return {
        path: (to_numpy(before[path].data), to_numpy(p.data - before[path].data))
        for path, p in receipt.after.items()
    }


def rank(matrix):
    return np.linalg.matrix_rank(matrix, tol=1e-9 * np.abs(matrix).max())


def near(a, b, limit=1e-12):
    return np.abs(a - b).max() <= limit * np.abs(b).max()


# --- what a change can be


@given(st.integers(1, 4), st.sampled_from(sorted(SHAPES)), st.integers(0, 99))
def test_ranks_of_the_changes(r, shape, seed):
    config = CONFIG.with_(layers=1)
    names = tuple(p.split(".")[-1] for p, s in config.linear_shapes.items() if s == shape)
    full = min(shape)
    for method, most in (
        (mp.LoRA(r, target_modules=names), r),
        (mp.RSLoRA(r, target_modules=names), r),
        (mp.VeRA(r, names), r),
        (mp.AdaLoRA(r, r, target_modules=names), r),
        (mp.LoHa(r, target_modules=names), r * r),
        *([(mp.PiSSA(r, target_modules=names), 2 * r)] if 2 * r <= full else []),
    ):
        base, _ = attached(method, config, rng=seed)
        for _, change in changes(base).values():
            assert rank(change) == min(most, full), method


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 99))
def test_full_rank_reaches_any_change(shape, seed):
    names = tuple({p.split(".")[-1] for p, s in CONFIG.linear_shapes.items() if s == shape})
    base, rng = model(CONFIG), np.random.default_rng(seed)
    adapter = mp.attach(base, mp.LoRA(min(shape), 3.0, target_modules=names))
    wanted = {path: rng.standard_normal(shape) for path in adapter.deltas}
    for path, delta in adapter.deltas.items():
        b, a = leading(xp.asarray(wanted[path]) / delta.scaling, min(shape))
        delta.lora_B.data, delta.lora_A.data = b, a
    for path, (_, change) in changes(base).items():
        assert near(change, wanted[path.removesuffix(".weight")])


def test_leading_is_the_best_of_its_rank():
    matrix = np.random.default_rng(0).standard_normal((6, 9))
    s = np.linalg.svd(matrix, compute_uv=False)
    for r in range(1, 7):
        b, a = map(to_numpy, leading(xp.asarray(matrix), r))
        assert b.shape == (6, r) and a.shape == (r, 9)
        assert np.isclose(np.linalg.norm(matrix - b @ a), math.sqrt((s[r:] ** 2).sum()))


@proves("lora", "rslora")
@given(st.integers(1, 4), st.floats(0.1, 10))
def test_rslora_is_lora_with_alpha_times_root_r(r, alpha):
    ids, _ = batch(CONFIG)
    one, _ = attached(mp.RSLoRA(r, alpha))
    two, _ = attached(mp.LoRA(r, alpha * math.sqrt(r)))
    assert near(logits(one, ids), logits(two, ids))
    (one, _), (two, _) = attached(mp.RSLoRA(4, alpha)), attached(mp.LoRA(4, alpha))
    assert not near(logits(one, ids), logits(two, ids), 1e-6)


# --- LoRA+


def test_b_moves_ratio_times_as_far():
    moved = {}
    for method in (mp.LoRA(2), mp.LoRAPlus(2, loraplus_lr_ratio=5.0)):
        base, adapter = attached(method)
        before = {path: p.data.copy() for path, p in adapter.named_parameters()}
        ids, labels = batch(CONFIG)
        run = Run(base, mp.Examples(ids, labels), Settings(1, 3, 0.01, 0, weight_decay=0.0))
        run.step()
        moved[type(method)] = {
            path: to_numpy(p.data - before[path]) for path, p in adapter.named_parameters()
        }
    for path, plain in moved[mp.LoRA].items():
        ratio = 5.0 if path.endswith("lora_B") else 1.0
        assert np.abs(plain).max() > 1e-3
        assert np.allclose(moved[mp.LoRAPlus][path], ratio * plain, rtol=1e-12, atol=0)


def test_the_rate_scales_the_decay_too():
    _, adapter = attached(mp.LoRAPlus(2, loraplus_lr_ratio=4.0))
    b = next(iter(adapter.deltas.values())).lora_B
    before, b.grad = to_numpy(b.data).copy(), xp.zeros(b.shape)
    AdamW([b], weight_decay=0.5).step(0.1)
    assert np.allclose(to_numpy(b.data), before * (1 - 0.1 * 4.0 * 0.5), rtol=1e-14, atol=0)


def test_a_loaded_loraplus_still_has_its_rates(tmp_path):
    base, _ = attached(mp.LoRAPlus(2, loraplus_lr_ratio=4.0), name="a")
    mp.save_adapter(base, "a", tmp_path)
    loaded = mp.load_adapter(model(CONFIG), tmp_path)
    assert {d.lora_B.rate for d in loaded.deltas.values()} == {4.0}
    assert {d.lora_A.rate for d in loaded.deltas.values()} == {1.0}


# --- PiSSA


@given(st.integers(1, 2), st.sampled_from([1.0, 5.0, -2.0]), st.integers(0, 99))
def test_pissa_starts_at_the_principal_part(r, alpha, seed):
    base, (ids, labels) = model(CONFIG, seed), batch(CONFIG)
    before = logits(base, ids)
    adapter = mp.attach(base, mp.PiSSA(r, alpha, target_modules="all-linear"))
    assert near(logits(base, ids), before, 1e-13)
    weights = dict(base.named_parameters())
    for path, delta in adapter.deltas.items():
        w = to_numpy(weights[f"{path}.weight"].data)
        trained = to_numpy(delta.scaling * delta.lora_B.data @ delta.lora_A.data)
        left, all_of_it = (np.linalg.svd(m, compute_uv=False) for m in (w - trained, w))
        assert np.allclose(left[: len(left) - r], all_of_it[r:], rtol=0, atol=1e-12)
        assert np.abs(left[len(left) - r :]).max() < 1e-12
    base.loss(ids, labels).backward()
    assert all(
        np.abs(to_numpy(p.grad)).max() > 0 for p in adapter.parameters()
    )  # B too, at once


def test_pissa_in_a_file_is_a_lora_of_the_original_base(tmp_path):
    base, (ids, _) = model(CONFIG), batch(CONFIG)
    before = logits(base, ids)
    adapter = mp.attach(base, mp.PiSSA(2, 3.0, rank_pattern={"v_proj": 1}), "p")
    shake(adapter)
    trained = logits(base, ids)
    with mp.disabled(base):
        assert (logits(base, ids) == before).all()
    mp.save_adapter(base, "p", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (
        4,
        6.0,
        {"v_proj": 2},
    )
    for path, (_, change) in changes(base, "p").items():
        name = f"base_model.model.{path.removesuffix('.weight')}"
        a, b = (saved[f"{name}.lora_{which}.weight"] for which in "AB")
        r = config["rank_pattern"].get(path.split(".")[-2], config["r"])
        assert a.shape[0] == b.shape[1] == r
        assert near(6.0 / r * b @ a, change)
    fresh = model(CONFIG)
    loaded = mp.load_adapter(fresh, tmp_path)
    assert type(loaded.method) is mp.LoRA and (logits(fresh, ids) == trained).all()


def test_pissa_needs_room_for_twice_its_rank():
    mp.attach(model(CONFIG), mp.PiSSA(2))
    with pytest.raises(ValueError, match="rank 2 r"):
        mp.attach(model(CONFIG), mp.PiSSA(3))  # v_proj is (4, 8)
    with pytest.raises(ValueError, match="α"):
        mp.PiSSA(lora_alpha=0.0)


# --- DoRA


@proves("dora", "lora")
@given(st.integers(1, 4), st.integers(0, 99))
def test_dora_with_the_norms_as_magnitudes_is_lora(r, seed):
    names, ids = ("q_proj", "v_proj", "down_proj"), batch(CONFIG, seed=seed)[0]
    one, dora = attached(mp.DoRA(r, 3.0, target_modules=names))
    two, lora = attached(mp.LoRA(r, 3.0, target_modules=names))
    for path, delta in dora.deltas.items():
        lora.deltas[path].lora_A.data = delta.lora_A.data
        lora.deltas[path].lora_B.data = delta.lora_B.data
        delta.lora_magnitude_vector.data = delta.norm()
    assert near(logits(one, ids), logits(two, ids))


@given(st.integers(1, 4), st.integers(0, 99))
def test_dora_sets_the_length_of_each_row(r, seed):
    base, adapter = attached(mp.DoRA(r, target_modules="all-linear"), rng=seed)
    after = {path: w + change for path, (w, change) in changes(base).items()}
    for path, delta in adapter.deltas.items():
        m, w = to_numpy(delta.lora_magnitude_vector.data), after[f"{path}.weight"]
        assert near(np.linalg.norm(w, axis=1), np.abs(m))


def test_dora_holds_the_norm_constant_in_the_gradient():
    base, adapter = attached(mp.DoRA(2, target_modules=("q_proj", "up_proj")))
    ids, labels = batch(CONFIG)
    batch_gradient(base, ids, labels)
    norms = {id(delta): delta.norm() for delta in adapter.deltas.values()}
    rng, step = np.random.default_rng(0), 1e-6
    for p in adapter.parameters():
        way = xp.asarray(rng.standard_normal(p.shape))
        with patch.object(DoRADelta, "norm", lambda self: norms[id(self)]):
            here, losses = p.data, []
            for side in (1, -1):
                p.data = here + side * step * way
                losses.append(base.loss(ids, labels).item())
            p.data = here
        slope = (losses[0] - losses[1]) / (2 * step)
        assert abs(slope - float((p.grad * way).sum())) <= 1e-6 * max(abs(slope), 1e-2)


def test_dora_with_a_row_of_zeros_is_no_nan():
    base, (ids, labels) = model(CONFIG), batch(CONFIG)
    base.blocks[0].attn.q_proj.weight.data[3] = 0.0
    before = logits(base, ids)
    adapter = mp.attach(base, mp.DoRA(2))
    assert (logits(base, ids) == before).all()
    history = mp.fit(base, mp.Examples(ids, labels), 3, 3, lr=0.01)
    assert all(map(math.isfinite, history.loss))
    assert all(np.isfinite(to_numpy(p.data)).all() for p in adapter.parameters())
    assert np.isfinite(logits(base, ids)).all() and mp.merge(base)


@pytest.mark.parametrize("below", [mp.LoRA(2, target_modules="all-linear"), mp.IA3()])
def test_weights_that_a_dora_was_made_for_stay_as_they_are(below, tmp_path):
    """Its norm is that of W. On another W it would compute one thing here, another reloaded."""
    base, _ = attached(below, name="below")
    dora = mp.DoRA(2, target_modules=("v_proj", "down_proj"))
    shake(mp.attach(base, dora, "dora"), 1)
    mp.use(base, ["below", "dora"])
    ids, _ = batch(CONFIG)
    wanted = logits(base, ids)
    with pytest.raises(ValueError, match="detach 'dora' before it changes"):
        mp.merge(base, "below")
    assert (logits(base, ids) == wanted).all()
    adapter = mp.detach(base, "dora")
    receipt = mp.merge(base, "below")
    with pytest.raises(ValueError, match="made for other weights"):
        mp.attach(base, adapter)
    shake(mp.attach(base, dora, "new"), 2)
    with pytest.raises(ValueError, match="detach 'new' before it changes"):
        mp.unmerge(receipt)
    mp.save_adapter(base, "new", tmp_path)
    twin, _ = attached(below, name="below")
    mp.merge(twin, "below")
    mp.load_adapter(twin, tmp_path)
    assert (logits(twin, ids) == logits(base, ids)).all()


# --- VeRA


def test_vera_shares_its_matrices_and_saves_vectors_only(tmp_path):
    method = mp.VeRA(9, ("q_proj", "down_proj", "lm_head"), projection_prng_key=5)
    base, adapter = attached(method, name="v")
    deltas = list(adapter.deltas.values())
    assert len({id(d.a.base) for d in deltas}) == len({id(d.b.base) for d in deltas}) == 1
    a, b = to_numpy(deltas[0].a.base), to_numpy(deltas[0].b.base)
    assert a.shape == (9, 8) and b.shape == (11, 9)  # as large as the largest
    for matrix, bound in ((a, math.sqrt(6 / 8)), (b, math.sqrt(6 / 9))):
        assert 0.9 * bound < np.abs(matrix).max() <= bound
    for path, (w, change) in changes(base, "v").items():
        delta = adapter.deltas[path.removesuffix(".weight")]
        d, lambda_b = (to_numpy(p.data) for p in (delta.vera_lambda_d, delta.vera_lambda_b))
        out, n_in = w.shape
        assert near(change, np.diag(lambda_b) @ b[:out] @ np.diag(d) @ a[:, :n_in])
    mp.save_adapter(base, "v", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.split(".")[-1] for name in saved} == {"vera_lambda_b", "vera_lambda_d"}
    loaded = mp.load_adapter(model(CONFIG), tmp_path)
    assert (next(iter(loaded.deltas.values())).a == deltas[0].a).all()
    other = mp.attach(model(CONFIG), mp.VeRA(9, method.target_modules))  # key 0
    assert (next(iter(other.deltas.values())).a != deltas[0].a).all()


def test_vera_starts_with_d_at_a_tenth():
    adapter = mp.attach(model(CONFIG), mp.VeRA(300, d_initial=0.1), rng=3)
    for delta in adapter.deltas.values():
        assert (delta.vera_lambda_d.data == 0.1).all() and not delta.vera_lambda_b.data.any()


# --- LoHa, LoKr, (IA)³


def test_loha_is_a_product_of_products():
    base, adapter = attached(mp.LoHa(2, 3.0, ("q_proj", "down_proj")))
    for path, (_, change) in changes(base).items():
        p = arrays(adapter.deltas[path.removesuffix(".weight")])
        one, two = p["hada_w1_a"] @ p["hada_w1_b"], p["hada_w2_a"] @ p["hada_w2_b"]
        assert near(change, 1.5 * one * two)


@given(
    st.integers(1, 24), st.integers(1, 24), st.integers(1, 4), st.booleans(), st.integers(-1, 5)
)
def test_lokr_is_a_kronecker_product(n_out, n_in, r, both, factor):
    method = mp.LoKr(r, 3.0, decompose_both=both, decompose_factor=factor or -1)
    rng = np.random.default_rng(n_out * n_in)
    with mp.dtype("float64"):
        layer = Linear(n_in, n_out, rng)
        delta = method.delta(layer, rng)
    (one, thin_one), (two, thin_two) = method.sizes(n_out, n_in)
    assert one[0] * two[0] == n_out and one[1] * two[1] == n_in
    assert thin_two == (r < max(two) / 2) and thin_one == (both and r < max(one) / 2)
    x = rng.standard_normal((2, 3, n_in))
    tensor = mp.Tensor(xp.asarray(x))
    assert (delta(layer.forward, tensor).data == layer(tensor).data).all()
    for p in delta.parameters():
        p.data = xp.asarray(rng.standard_normal(p.shape))
    w1, w2 = (to_numpy(w.data) for w in delta.factors())
    assert w1.shape == one and w2.shape == two
    change = 3.0 / r * np.kron(w1, w2)
    y, plain = to_numpy(delta(layer.forward, tensor).data), to_numpy(layer(tensor).data)
    assert np.allclose(y, plain + x @ change.T, rtol=0, atol=1e-10)
    merged, weight = to_numpy(delta.merged(layer)["weight"]), to_numpy(layer.weight.data)
    assert np.allclose(merged, weight + change, atol=1e-12)
    assert sum(p.data.size for p in delta.parameters()) == method.parameters_per_matrix(
        n_out, n_in
    )


@given(st.integers(1, 200), st.integers(-1, 20))
def test_factors_are_the_nearest_to_a_square(n, near_to):
    near_to = near_to or -1
    small, large = factors(n, near_to)
    assert small * large == n
    if near_to > 0 and n % near_to == 0:
        assert small == near_to
    else:
        most = n if near_to == -1 else near_to
        pairs = [m for m in range(1, n + 1) if n % m == 0 and m * m <= n and m <= most]
        assert small == max(pairs)


def test_ia3_is_a_diagonal():
    base, adapter = attached(mp.IA3(("v_proj", "down_proj", "up_proj"), ("down_proj",)))
    receipt = mp.merge(base)
    for path, delta in adapter.deltas.items():
        l, inside = to_numpy(delta.ia3_l.data), path.endswith("down_proj")  # noqa: E741
        weight, bias = f"{path}.weight", f"{path}.bias"
        old, new = (to_numpy(side[weight].data) for side in (receipt.before, receipt.after))
        assert np.allclose(new, old @ np.diag(l) if inside else np.diag(l) @ old, atol=1e-14)
        assert (bias in receipt.after) == (not inside)
        if not inside:
            old, new = (to_numpy(side[bias].data) for side in (receipt.before, receipt.after))
            assert (new == l * old).all()


@pytest.mark.parametrize("config", [CONFIG, mp.Config.llama(**SIZES)])
def test_ia3_with_minus_one_is_opposite(config):
    base, rng = model(config), np.random.default_rng(0)
    x = mp.Tensor(xp.asarray(rng.standard_normal((2, 3, 8))))
    v = base.blocks[0].attn.v_proj
    before = v(x).data
    adapter = mp.attach(base, mp.IA3())
    adapter.deltas["blocks.0.attn.v_proj"].ia3_l.data[:] = -1.0
    assert (v(x).data == -before).all()


# --- patterns and places


def test_patterns_give_modules_their_own_rank_and_alpha():
    method = mp.LoRA(
        2,
        4.0,
        target_modules=("q_proj", "v_proj", "down_proj"),
        rank_pattern={"blocks.0.attn.q_proj": 3, "q_proj": 1, r"1\..*down_proj": 4},
        alpha_pattern={"v_proj": 7.0},
    )
    adapter = mp.attach(model(CONFIG), method)
    got = {path: (len(d.lora_A), d.scaling) for path, d in adapter.deltas.items()}
    assert got == {
        "blocks.0.attn.q_proj": (3, 4 / 3),  # the first that fits
        "blocks.1.attn.q_proj": (1, 4.0),
        "blocks.0.attn.v_proj": (2, 3.5),
        "blocks.1.attn.v_proj": (2, 3.5),
        "blocks.0.mlp.down_proj": (2, 2.0),
        "blocks.1.mlp.down_proj": (4, 1.0),
    }
    assert adapter.count == method.count(CONFIG)
    rs = mp.attach(model(CONFIG), mp.RSLoRA(2, 4.0, rank_pattern={"v_proj": 4}))
    assert rs.deltas["blocks.0.attn.v_proj"].scaling == 2.0
    assert rs.deltas["blocks.0.attn.q_proj"].scaling == 4.0 / math.sqrt(2)


@pytest.mark.parametrize("kind", [mp.LoHa, mp.LoKr])
def test_patterns_of_products(kind):
    method = kind(1, 4.0, rank_pattern={"v_proj": 2}, alpha_pattern={"0.attn.q_proj": 3.0})
    adapter = mp.attach(model(CONFIG), method)
    scales = {path: delta.scaling for path, delta in adapter.deltas.items()}
    assert scales == {
        "blocks.0.attn.q_proj": 3.0,
        "blocks.1.attn.q_proj": 4.0,
        "blocks.0.attn.v_proj": 2.0,
        "blocks.1.attn.v_proj": 2.0,
    }
    assert adapter.count == method.count(CONFIG)


def test_a_pattern_matches_whole_parts_of_a_path():
    base = model(CONFIG)
    for pattern in ("proj", "v_pro", "attn.v", "blocks.0"):
        with pytest.raises(ValueError, match="rank_pattern"):
            mp.attach(base, mp.LoRA(2, rank_pattern={pattern: 1}))
    with pytest.raises(ValueError, match="did you mean 'v_proj'"):
        mp.attach(base, mp.LoRA(2, alpha_pattern={"v_prj": 1.0}))
    with pytest.raises(ValueError, match="alpha_pattern"):
        mp.LoRA(2, alpha_pattern={"(": 1.0}).count(CONFIG)
    assert not mp.adapters(base)


@pytest.mark.parametrize(
    "layers, found", [(1, {1}), ((0,), {0}), ((1, 0), {0, 1}), ([1], {1}), ((), {0, 1})]
)
@pytest.mark.parametrize("kind", [mp.LoRA, mp.DoRA, mp.VeRA, mp.LoHa, mp.LoKr])
def test_layers_to_transform(kind, layers, found):
    method = kind(2, target_modules="all-linear", layers_to_transform=layers)
    adapter = mp.attach(model(CONFIG), method)
    assert {int(path.split(".")[1]) for path in adapter.deltas} == found
    assert len(adapter.deltas) == 6 * len(found) and adapter.count == method.count(CONFIG)


def test_the_head_is_in_no_layer():
    names = ("q_proj", "lm_head")
    with pytest.raises(ValueError, match="unknown target module 'lm_head'"):
        mp.attach(model(CONFIG), mp.LoRA(2, target_modules=names, layers_to_transform=0))


@pytest.mark.parametrize("layers", [2, (0, 5), -1])
def test_layers_that_do_not_exist(layers):
    with pytest.raises(ValueError, match="0 … 1"):
        mp.attach(model(CONFIG), mp.LoRA(2, layers_to_transform=layers))


def test_files_keep_patterns_and_layers(tmp_path):
    method = mp.LoRA(
        2, rank_pattern={"v_proj": 1}, alpha_pattern={"q.*": 3.0}, layers_to_transform=(1,)
    )
    base, _ = attached(method, name="a")
    ids, _ = batch(CONFIG)
    mp.save_adapter(base, "a", tmp_path)
    fresh = model(CONFIG)
    assert mp.load_adapter(fresh, tmp_path).method == method
    assert (logits(fresh, ids) == logits(base, ids)).all()


# --- the token table and the tied head

TABLES = [("wte",), ("lm_head",), ("wte", "lm_head"), ("wte", "q_proj")]


@pytest.mark.parametrize("names", TABLES)
@pytest.mark.parametrize("tied", [True, False])
@given(st.integers(1, 4), configs())
def test_merging_on_the_tables(names, tied, r, config):
    config = config.with_(tied=tied, vocab=7)
    if min(config.width, *config.linear_shapes["blocks.0.attn.q_proj"]) < r:
        return
    ids, _ = batch(config)
    base, adapter = attached(mp.LoRA(r, 3.0, target_modules=names), config)
    assert adapter.count == adapter.method.count(config)
    table, wanted = base.wte.weight.data, logits(base, ids)
    receipt = mp.merge(base)
    assert near(logits(base, ids), wanted)
    assert not base.config.tied  # what was changed alone is shared no more
    head = base.lm_head.weight.data
    assert (base.wte.weight.data == table).all() == ("wte" not in names)
    if tied:
        assert (head == table).all() == ("lm_head" not in names)
    assert sum(p.data.size for p in base.parameters()) == base.config.size
    mp.unmerge(receipt)
    assert base.config == config and (logits(base, ids) == wanted).all()
    assert base.wte.weight.data is table


@pytest.mark.parametrize("names", TABLES)
def test_a_merged_table_is_saved_and_loaded(names, tmp_path):
    base, _ = attached(mp.LoRA(2, target_modules=names))
    mp.merge(base)
    ids, _ = batch(CONFIG)
    mp.save_model(base, tmp_path)
    loaded = mp.load_model(tmp_path)
    assert (logits(loaded, ids) == logits(base, ids)).all() and loaded.config == base.config
    assert mp.fingerprint(loaded) == mp.fingerprint(base)


def test_a_change_of_a_tied_head_is_the_heads_alone():
    base, _ = attached(mp.LoRA(2, target_modules=("lm_head",)))
    ids, seen = batch(CONFIG)[0], []
    for name in ("default", None):
        mp.use(base, name)
        seen.append(base.wte(xp.asarray(ids)).data)
    assert (seen[0] == seen[1]).all()
    assert [p for p, _ in base.named_parameters()].count("lm_head.weight") == 0


@pytest.mark.parametrize("kind", [mp.LoRAPlus, mp.PiSSA, mp.DoRA, mp.LoHa, mp.LoKr, mp.VeRA])
def test_methods_without_a_form_for_the_table_say_so(kind):
    base = model(CONFIG)
    for call in (lambda m: mp.attach(base, m), lambda m: m.count(CONFIG)):
        with pytest.raises(ValueError, match="no form for the token table"):
            call(kind(1, target_modules=("wte", "q_proj")))
    assert not mp.adapters(base)


def test_rows_may_use_different_tables():
    base, _ = attached(mp.LoRA(2, target_modules=("wte", "lm_head")), name="a")
    ids, _ = batch(CONFIG)
    alone = {}
    for name in ("a", None):
        mp.use(base, name)
        alone[name] = logits(base, ids)
    mp.use(base, rows=["a", None, "a"])
    for row, name in enumerate(["a", None, "a"]):
        assert near(logits(base, ids)[row], alone[name][row])


# --- files


@pytest.mark.parametrize(
    "method, marks",
    [(mp.LoRA(2), []), (mp.RSLoRA(2), ["use_rslora"]), (mp.DoRA(2), ["use_dora"])],
    ids=str,
)
def test_marks_tell_methods_of_one_name_apart_as_hf_peft_does(method, marks, tmp_path):
    base, _ = attached(method, name="a")
    mp.save_adapter(base, "a", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    marked = [mark for mark in ("use_rslora", "use_dora") if config.get(mark) is True]
    assert config["peft_type"] == "minipeft.LORA" and marked == marks


def test_two_marks_at_once_are_refused(tmp_path):
    base, _ = attached(mp.DoRA(2), name="a")
    mp.save_adapter(base, "a", tmp_path)
    path = tmp_path / "adapter_config.json"
    values = json.loads(path.read_text()) | {"use_rslora": True}
    with pytest.raises(ValueError, match="use_"):
        method_from_config(values)


# --- errors


def test_a_list_is_as_good_as_a_tuple():
    """As it comes from JSON, and as HF PEFT's users write it."""
    assert mp.LoRA(target_modules=["q_proj"]) == mp.LoRA(target_modules=("q_proj",))
    assert hash(mp.LoRA(layers_to_transform=[0, 1])) == hash(
        mp.LoRA(layers_to_transform=(0, 1))
    )


@pytest.mark.parametrize(
    "method, message",
    [
        (mp.LoRA(5), "rank ≤ 4"),
        (mp.DoRA(5), "lower r"),
        (mp.LoHa(5), "lower r"),
        (mp.AdaLoRA(5, 2), "lower r"),
        (mp.LoRA(2, rank_pattern={"v_proj": 5}), "rank ≤ 4"),
        (mp.LoRA(2, target_modules=("q_prj",)), "did you mean 'q_proj'"),
        (mp.LoKr(2, target_modules=("q_proj", "wpe")), "unknown target module 'wpe'"),
        (mp.VeRA(2, ()), "no target modules"),
        (mp.IA3(("k_proj",), ("down_proj",)), "unknown target module 'down_proj'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(method, message):
    base = model(CONFIG)
    with pytest.raises(ValueError, match=message):
        mp.attach(base, method)
    with pytest.raises(ValueError, match=message):
        method.count(CONFIG)
    assert not mp.adapters(base) and all(p.requires_grad for p in base.parameters())
