"""Where one method, at some setting, computes what another does: the edges of a family tree."""

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from strategies import model

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


def test_road_without_angles_is_ia3():
    net, delta = attached(mp.RoAd("road_2", 2, Q), road_theta=0.0)
    ia3, _ = attached(mp.IA3(Q, ()), ia3_l=to_numpy(delta.road_alpha.data))
    equal(net, ia3)


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


def test_gralora_of_one_block_is_lora_and_of_k_has_k_times_its_rank():
    net, delta = attached(mp.GraLoRA(2, 6.0, gralora_k=1, target_modules=Q))
    a, b = (to_numpy(p.data)[0].T for p in (delta.gralora_A, delta.gralora_B))
    lora, _ = attached(mp.LoRA(2, 6.0, target_modules=Q), lora_A=a, lora_B=b)
    equal(net, lora)
    for k in (1, 2, 4):
        net, _ = attached(mp.GraLoRA(2 * k, gralora_k=k, target_modules=Q))
        before, after = weights(net)
        assert np.linalg.matrix_rank(after - before, tol=1e-9) == min(2 * k * k, 8)


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
