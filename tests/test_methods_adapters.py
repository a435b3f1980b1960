"""What is special to bottleneck, parallel and Compacter adapters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.model.layers import kaiming_uniform
from minipeft.peft.methods.compacter import kronecker_sum
from strategies import batch, configs, model

CONFIG = mp.Config.gpt2(vocab=11, context=16, width=8, layers=2, heads=2, ffn=7, init_std=0.3)


def shake(adapter, seed=0):
    """Give every trainable number another value, so that nothing is zero."""
    rng = np.random.default_rng(seed)
    for p in adapter.parameters():
        p.data = p.data + xp.asarray(0.3 * rng.standard_normal(p.shape))


def arrays(delta):
    """{name: array} of a delta."""
    return {name: to_numpy(p.data) for name, p in delta.named_parameters()}


@given(configs(), st.integers(1, 5), st.sampled_from(["houlsby", "pfeiffer"]))
def test_bottleneck_numbers(config, m, style):
    base = model(config)
    adapter = mp.attach(base, mp.Bottleneck(m, style))
    each = 2 * m * config.width + m + config.width
    places = 2 if style == "houlsby" else 1
    assert adapter.count == adapter.method.count(config) == places * config.layers * each


def test_pfeiffer_is_half_of_houlsby():
    one, two = (kind(3).count(CONFIG) for kind in (mp.Pfeiffer, mp.Bottleneck))
    assert two == 2 * one
    assert mp.Pfeiffer(3).count(CONFIG) == mp.Bottleneck(3, "pfeiffer").count(CONFIG)


@pytest.mark.parametrize(
    "names", [("mlp",), ("attn",), ("attn", "mlp"), ("blocks.1.mlp",), "mlp"]
)
def test_parallel_sits_where_it_is_told(names):
    base = model(CONFIG)
    adapter = mp.attach(base, mp.Parallel(3, target_modules=names))
    wanted = (names,) if isinstance(names, str) else names
    assert all(path.endswith(wanted) for path in adapter.deltas)
    assert adapter.count == adapter.method.count(CONFIG) == len(adapter.deltas) * 59


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_kronecker_sum(n, p, q, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((n, n, n)), rng.standard_normal((n, p, q))
    ours = kronecker_sum(mp.Tensor(a), mp.Tensor(b)).data
    assert np.allclose(ours, sum(map(np.kron, a, b)), rtol=0, atol=1e-13)


def test_compacter_shares_its_slow_weights(tmp_path):
    base = model(CONFIG)
    adapter = mp.attach(base, mp.Compacter(m=4, phm_dim=2), name="c")
    rules = {id(delta.phm_rule) for delta in adapter.deltas.values()}
    assert len(adapter.deltas) == 4 and len(rules) == 1
    each = 2 * (8 + 4) + 4 + 8
    assert adapter.count == adapter.method.count(CONFIG) == 4 * each + 2**3
    assert sum("phm_rule" in path for path, _ in adapter.named_parameters()) == 1
    shake(adapter)
    ids, labels = batch(CONFIG)
    base.loss(ids, labels).backward()
    rule, step = next(iter(adapter.deltas.values())).phm_rule, 1e-6
    direction = xp.asarray(np.random.default_rng(2).standard_normal(rule.shape))
    slope = float((rule.grad * direction).sum())  # through all four adapters
    losses = []
    for side in (step, -2 * step):
        rule.data = rule.data + side * direction
        losses.append(base.loss(ids, labels).item())
    assert abs((losses[0] - losses[1]) / (2 * step) - slope) <= 1e-6 * abs(slope)
    mp.save_adapter(base, "c", tmp_path)
    fresh = model(CONFIG)
    loaded = mp.load_adapter(fresh, tmp_path)
    assert len({id(delta.phm_rule) for delta in loaded.deltas.values()}) == 1
    assert (to_numpy(fresh(ids).data) == to_numpy(base(ids).data)).all()


@pytest.mark.parametrize("sizes", [dict(m=5), dict(m=6, phm_dim=3), dict(m=4, phm_rank=0)])
def test_compacter_refuses_sizes_that_do_not_divide(sizes):
    base = model(CONFIG)
    with pytest.raises(ValueError, match="phm"):
        mp.attach(base, mp.Compacter(**sizes))
    assert not mp.adapters(base)


def test_a_plain_start_and_a_compacter_start_are_of_one_size():
    config = CONFIG.with_(width=64, ffn=8)
    adapter = mp.attach(model(config), mp.Compacter(m=16))
    sizes = []
    for delta in adapter.deltas.values():
        p = arrays(delta)
        sizes.append(sum(map(np.kron, p["phm_rule"], p["down_left"] @ p["down_right"])).std())
    plain = kaiming_uniform(np.random.default_rng(0), 16, 64).std()
    assert 0.4 < np.mean(sizes) / plain < 2.5
