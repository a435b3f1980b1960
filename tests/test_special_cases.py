"""Where one method, at some setting, computes what another does: the edges of a family tree."""

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from strategies import model

LLAMA = mp.Config.llama(vocab=11, context=16, width=8, layers=1, heads=4, ffn=6, init_std=0.3)
Q = ("q_proj",)  # (8, 8)


def attached(method, **values):
    """(model, the change of q_proj), its parameters of these values, or random ones."""
    net, rng = model(LLAMA), np.random.default_rng(3)
    (delta,) = mp.attach(net, method).deltas.values()
    for name, p in delta.named_parameters():
        p.data[...] = values.get(name, rng.standard_normal(p.shape))
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
