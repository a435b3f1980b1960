"""Where one method, at some setting, computes what another does: the edges of a family tree."""

import ast
from pathlib import Path

import pytest

import minipeft as mp
from laws.case import close, logits
from minipeft.engine.backend import np, to_numpy, xp
from spec import proves
from strategies import batch, model

LLAMA = mp.Config.llama(vocab=11, context=16, width=8, layers=1, heads=4, ffn=6, init_std=0.3)
Q = ("q_proj",)  # (8, 8)


def attached(method, **values):
    """(model, the change of q_proj), its parameters of these values, or random ones."""
    net, rng = model(LLAMA), np.random.default_rng(3)
    (delta,) = mp.attach(net, method).deltas.values()
    for name, p in delta.named_parameters():
        value = values.get(name, rng.standard_normal(p.shape))
        p.data = xp.asarray(np.broadcast_to(value, p.shape).copy())
    return net, delta


def weights(net):
    """(W, W') of q_proj: before and after merging."""
    before = to_numpy(net.blocks[0].attn.q_proj.weight.data)
    mp.merge(net)
    return before, to_numpy(net.blocks[0].attn.q_proj.weight.data)


def equal(ours, theirs):
    """Assert that two models, merged, have the same weight."""
    np.testing.assert_allclose(weights(ours)[1], weights(theirs)[1], rtol=0, atol=1e-12)


def cayley(rotation):
    """The upper triangle of Q whose R = (I − Q) (I + Q)⁻¹ this is."""
    one = np.eye(len(rotation))
    q = (one - rotation) @ np.linalg.inv(one + rotation)  # the transform is its own inverse
    np.testing.assert_allclose(q, -q.T, atol=1e-12)
    return q[np.triu_indices(len(q), 1)]


def test_hra_begins_as_the_base_but_for_rounding():
    net = model(LLAMA)
    mp.attach(net, mp.HRA(6, Q), rng=1)
    before, after = weights(net)
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-14)


@proves("oft", "hra")
@proves("lora", "hra")
def test_hra_is_an_oft_of_one_block_and_a_lora():
    net, _ = attached(mp.HRA(4, Q))
    before, after = weights(net)
    turned = np.linalg.solve(before, after)  # W' = W H
    np.testing.assert_allclose(turned @ turned.T, np.eye(8), atol=1e-11)
    assert np.linalg.matrix_rank(after - before, tol=1e-9) == 4
    oft, _ = attached(mp.OFT(8, Q), oft_R=cayley(turned.T))  # W' = W Rᵀ
    np.testing.assert_allclose(weights(oft)[1], after, atol=1e-11)


def test_road_is_an_oft_of_pairs_on_the_side_of_the_outputs():
    net, delta = attached(mp.RoAd(target_modules=Q), road_alpha=1.0)
    angles = to_numpy(delta.road_theta.data)
    before, after = weights(net)
    oft, delta = attached(mp.OFT(2, Q), oft_R=np.tan(angles / 2)[:, None])
    rotation = to_numpy(delta.rotation().data)  # (4, 2, 2)
    whole = np.zeros((8, 8))
    for i, r in enumerate(rotation):
        whole[2 * i : 2 * i + 2, 2 * i : 2 * i + 2] = r
    np.testing.assert_allclose(after, whole @ before, atol=1e-12)
    np.testing.assert_allclose(weights(oft)[1], before @ whole.T, atol=1e-12)


@proves("road", "ia3")
def test_road_without_angles_is_ia3():
    net, delta = attached(mp.RoAd("road_2", 2, Q), road_theta=0.0)
    ia3, _ = attached(mp.IA3(Q, ()), ia3_l=to_numpy(delta.road_alpha.data))
    equal(net, ia3)


@proves("boft", "oft")
def test_boft_of_one_factor_is_an_oft_with_scales():
    net, delta = attached(mp.BOFT(4, 1, Q), boft_s=1.0)
    r = to_numpy(delta.boft_R.data)[0]
    rows, columns = np.triu_indices(4, 1)
    q = (r - r.transpose(0, 2, 1))[:, rows, columns] / 2
    oft, _ = attached(mp.OFT(4, Q), oft_R=q)
    equal(net, oft)


def test_boft_of_all_factors_mixes_all_inputs():
    for m, inputs in ((1, 2), (2, 4), (3, 8)):
        net, _ = attached(mp.BOFT(2, m, Q), boft_s=1.0)
        before, after = weights(net)
        mixed = np.linalg.solve(before, after)  # W' = W Bᵀ
        np.testing.assert_allclose(mixed @ mixed.T, np.eye(8), atol=1e-11)
        assert ((abs(mixed) > 1e-9).sum(axis=0) == inputs).all()


@proves("gralora", "lora")
def test_gralora_of_one_block_is_lora_and_of_k_has_k_times_its_rank():
    net, delta = attached(mp.GraLoRA(2, 6.0, gralora_k=1, target_modules=Q))
    a, b = (to_numpy(p.data)[0].T for p in (delta.gralora_A, delta.gralora_B))
    lora, _ = attached(mp.LoRA(2, 6.0, target_modules=Q), lora_A=a, lora_B=b)
    equal(net, lora)
    for k in (1, 2, 4):
        net, _ = attached(mp.GraLoRA(2 * k, gralora_k=k, target_modules=Q))
        before, after = weights(net)
        assert np.linalg.matrix_rank(after - before, tol=1e-9) == min(2 * k * k, 8)


@proves("c3a", "full")
def test_c3a_of_blocks_of_one_is_a_change_of_the_whole_matrix():
    net, delta = attached(mp.C3A(1, Q, divide_by_inputs=False))
    before, after = weights(net)
    np.testing.assert_allclose(after - before, to_numpy(delta.c3a_kernel.data)[..., 0])


def test_c3a_of_one_block_is_an_fft_as_the_paper_writes_it():
    net, delta = attached(mp.C3A(8, Q, divide_by_inputs=False))
    before, after = weights(net)
    w, x = to_numpy(delta.c3a_kernel.data)[0, 0], np.random.default_rng(0).standard_normal(8)
    wanted = np.fft.fft(np.fft.fft(w) * np.fft.ifft(x)).real
    np.testing.assert_allclose((after - before) @ x, wanted, atol=1e-12)


def basis_of(method):
    """What each of the n coefficients of a method adds to W if it is 1, (n, out in)."""
    (c,) = (delta := attached(method)[1]).parameters()
    rows = []
    for one in np.eye(c.shape[0]):
        c.data = xp.asarray(one)
        rows.append(to_numpy(delta.change().data).ravel())
    return np.array(rows)


@proves("waveft", "full")
def test_waveft_of_all_places_is_a_rotation_of_the_whole_matrix():
    basis = basis_of(mp.WaveFT(64, 1.0, 0, Q))
    np.testing.assert_allclose(basis @ basis.T, np.eye(64), atol=1e-12)


def test_fourierft_of_all_places_reaches_half_of_all_changes():
    """Its cosines are the same at u, v and −u, −v, but for the 4 places that are their own."""
    basis = basis_of(mp.FourierFT(64, 1.0, 0, Q))
    assert np.linalg.matrix_rank(basis, tol=1e-9) == (64 + 4) // 2


def test_fourierft_is_a_lora_of_frozen_waves():
    """A wave cos(p + q) = cos p cos q − sin p sin q has rank 2, or 1 if it is along an axis."""
    net, _ = attached(mp.FourierFT(3, 1.0, 0, Q))
    before, after = weights(net)
    assert np.linalg.matrix_rank(after - before, tol=1e-9) <= 6


@proves("lora", "vera")
def test_vera_is_a_lora_of_frozen_matrices_that_are_scaled():
    net, delta = attached(mp.VeRA(3, Q))
    d, b = (to_numpy(p.data) for p in (delta.vera_lambda_d, delta.vera_lambda_b))
    a, matrix = d[:, None] * to_numpy(delta.a), b[:, None] * to_numpy(delta.b)
    lora, _ = attached(mp.LoRA(3, 3.0, target_modules=Q), lora_A=a, lora_B=matrix)
    equal(net, lora)


@proves("loha", "lora")
def test_loha_whose_second_factor_is_ones_is_lora():
    r = 2
    ones = dict(hada_w2_a=1.0, hada_w2_b=1.0 / r)  # a product of r terms 1 · 1 / r
    net, delta = attached(mp.LoHa(r, 3.0, target_modules=Q), **ones)
    factors = dict(lora_B=to_numpy(delta.hada_w1_a.data), lora_A=to_numpy(delta.hada_w1_b.data))
    lora, _ = attached(mp.LoRA(r, 3.0, target_modules=Q), **factors)
    equal(net, lora)


@proves("lora", "adalora")
def test_adalora_is_a_lora_whose_b_is_p_times_lambda():
    net, delta = attached(mp.AdaLoRA(init_r=4, target_r=2, target_modules=Q))
    p, e, q = (to_numpy(x.data) for x in (delta.lora_B, delta.lora_E, delta.lora_A))
    r = len(e)
    scaled = p * e.reshape(-1) * delta.scaling * r
    lora, _ = attached(mp.LoRA(r, 1.0, target_modules=Q), lora_B=scaled, lora_A=q)
    equal(net, lora)


@proves("lora+", "lora")
def test_loraplus_of_ratio_1_trains_as_lora():
    trained = []
    for method in (mp.LoRAPlus(2, loraplus_lr_ratio=1.0), mp.LoRA(2)):
        net = model(LLAMA)
        adapter = mp.attach(net, method, rng=0)
        mp.fit(net, mp.Examples(*batch(LLAMA)), 4, 2, 0.05)
        trained.append([to_numpy(p.data) for p in adapter.parameters()])
    assert all((a == b).all() for a, b in zip(*trained, strict=True))


@proves("adapter", "pfeiffer")
def test_adapters_that_are_zero_after_attention_are_pfeiffers():
    ids, _ = batch(LLAMA)
    both, one = model(LLAMA), model(LLAMA)
    adapter, after_mlp = mp.attach(both, mp.Bottleneck(3)), mp.attach(one, mp.Pfeiffer(3))
    rng = np.random.default_rng(0)
    for path, delta in adapter.deltas.items():
        for name, p in delta.named_parameters():
            p.data = xp.zeros_like(p.data)
            if path in after_mlp.deltas:
                p.data = xp.asarray(rng.standard_normal(p.shape))
                getattr(after_mlp.deltas[path], name).data = p.data
    close(logits(both, ids), logits(one, ids), 1e-12, "logits")


@proves("full", "head")
@proves("full", "last-k")
@proves("full", "bitfit")
@proves("full", "norms")
@pytest.mark.parametrize("name", ["head", "last-k", "bitfit", "norms"])
def test_what_selects_parameters_is_full_fine_tuning_that_leaves_the_others(name):
    config = mp.Config.gpt2(vocab=11, context=16, width=8, layers=2, heads=4, tied=False)
    ids, _ = batch(config)
    some, whole = model(config), model(config)
    adapter, full = mp.attach(some, mp.METHODS[name]()), mp.attach(whole, mp.Full())
    rng = np.random.default_rng(0)
    assert adapter.copies.keys() < full.copies.keys()
    for path, p in adapter.copies.items():
        p.data = full.copies[path].data = xp.asarray(rng.standard_normal(p.shape))
    close(logits(some, ids), logits(whole, ids), 1e-12, "logits")


@proves("prompt", "cpt")
def test_a_trained_cpt_is_a_prompt():
    ids, labels = batch(LLAMA)
    net, plain = model(LLAMA), model(LLAMA)
    adapter = mp.attach(net, mp.CPT((1, 5, 3)))
    mp.fit(net, mp.Examples(ids, labels), 3, 2, 0.1)
    (delta,) = adapter.deltas.values()
    mp.attach(plain, mp.Prompt(3)).parameters()[0].data = delta.saved()["prompt_embeddings"]
    close(logits(net, ids), logits(plain, ids), 1e-12, "logits")


def declared():
    """{(general, special)} of what the classes say of each other."""
    edges = set()
    for name, method in mp.METHODS.items():
        edges |= {(name, line.split(": ")[0]) for line in vars(method).get("contains", ())}
        edges |= {(line.split(": ")[0], name) for line in vars(method).get("within", ())}
    return edges


def shown():
    """{(general, special)} that some test is marked to prove."""
    edges = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "proves":
                    edges.add(tuple(name.value for name in mark.args))
    return edges


def test_a_method_says_what_it_contains_if_and_only_if_a_test_proves_it():
    assert declared() == shown()
    assert {name for edge in declared() for name in edge} <= set(mp.METHODS)
