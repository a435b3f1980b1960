"""He et al.'s unified view, executed: what the methods share, and several at once.

arXiv:2110.04366, section 3: prefix tuning is a gated mixture (equations 7 and 8), a parallel
adapter without its nonlinearity is LoRA on the whole sub-layer (table 1).
"""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import attention
from minipeft.engine.tensor import value
from minipeft.peft.base import Delta, Method
from minipeft.peft.methods.lora import LoRADelta
from spec import proves
from strategies import batch, model
from test_methods_adapters import shake
from test_methods_prompts import SHAPES, both_shapes


def share_of_prefix(q, keys, n, mask):
    """λ (B, H, T, 1): how much of its attention each query gives to the first n of S keys."""
    (_, H, _, K), G = q.shape, keys.shape[1]
    scores = q @ xp.repeat(keys, H // G, axis=1).swapaxes(-1, -2) / K**0.5
    if mask is not None:
        scores = scores + (mask if mask.ndim == 2 else mask[:, None])
    weight = xp.exp(scores)
    return weight[..., :n].sum(-1, keepdims=True) / weight.sum(-1, keepdims=True)


@given(*[st.integers(1, n) for n in (2, 2, 3, 4, 5, 4)], st.integers(0, 99))
def test_a_prefix_is_a_gated_mixture(B, G, groups, T, K, n, seed):
    rng = np.random.default_rng(seed)
    q = xp.asarray(rng.standard_normal((B, G * groups, T, K)))
    k, v = xp.asarray(rng.standard_normal((2, B, G, T, K)))
    P_k, P_v = xp.asarray(rng.standard_normal((2, B, G, n, K)))
    hidden = xp.triu(xp.full((T, T), -1e30), k=1)
    mask = xp.concatenate([xp.zeros((T, n)), hidden], axis=1)
    keys, values = xp.concatenate([P_k, k], 2), xp.concatenate([P_v, v], 2)
    share = share_of_prefix(q, keys, n, mask)
    plain, prefix = attention(q, k, v, hidden).data, attention(q, P_k, P_v, None).data
    mixture = (1 - share) * plain + share * prefix
    assert xp.allclose(attention(q, keys, values, mask).data, mixture, rtol=0, atol=1e-12)


class Mixture(Delta):
    """Attention to a cache with a prefix of n, computed as the mixture of two attentions."""

    def __init__(self, n):
        self.n, self.calls = n, 0

    def __call__(self, f, q, k, v, mask):
        n, (q, k, v) = self.n, map(value, (q, k, v))
        share = share_of_prefix(q, k, n, mask)
        self.calls += 1
        plain = f(q, k[:, :, n:], v[:, :, n:], mask[..., n:])
        return plain * (1 - share) + f(q, k[:, :, :n], v[:, :, :n], None) * share


@both_shapes
def test_a_prefixed_model_is_a_model_of_mixtures(config):
    base, (ids, _) = model(config), batch(config)
    mp.attach(base, mp.Prefix(3))
    prefixed = to_numpy(base(ids).data)
    mixture = Mixture(3)
    for block in base.blocks:
        block.attn.attend.active.append((mixture, None))
    assert np.allclose(to_numpy(base(ids).data), prefixed, rtol=0, atol=1e-12)
    assert mixture.calls == config.layers


@dataclass(frozen=True)
class LoRAOnSubLayers(Method):
    """LoRA of rank 3 beside whole sub-layers instead of single weights."""

    def make_deltas(self, model, rng):
        lora = mp.LoRA(r=3, lora_alpha=6.0)
        inside = model.blocks[0].attn.q_proj  # (width, width), as a sub-layer is
        return {
            f"blocks.{i}.{name}": OnSubLayer(inside, lora, rng)
            for i in range(len(model.blocks))
            for name in ("attn", "mlp")
        }


class OnSubLayer(LoRADelta):
    """LoRA that lets the other arguments of attention pass."""

    def __call__(self, f, x, *memory):
        return super().__call__(lambda x: f(x, *memory), x)


@proves("parallel", "lora")
@both_shapes
def test_a_parallel_adapter_without_nonlinearity_is_lora(config):
    base, (ids, _) = model(config), batch(config)
    before = to_numpy(base(ids).data)
    places = ("attn", "mlp")
    method = mp.Parallel(m=3, scale=2.0, nonlinearity="identity", target_modules=places)
    parallel = mp.attach(base, method, "parallel")
    lora = mp.attach(base, LoRAOnSubLayers(), "lora")
    assert parallel.deltas.keys() == lora.deltas.keys()
    shake(parallel)
    for path, delta in parallel.deltas.items():
        delta.down_bias.data[...] = delta.up_bias.data[...] = 0.0
        lora.deltas[path].lora_A.data = delta.down.data
        lora.deltas[path].lora_B.data = delta.up.data
    mp.use(base, "lora")
    wanted = to_numpy(base(ids).data)
    mp.use(base, "parallel")
    assert np.allclose(to_numpy(base(ids).data), wanted, rtol=0, atol=1e-12)
    assert np.abs(wanted - before).max() > 0.01


def test_a_parallel_adapter_is_more_units_of_the_mlp():
    """With the MLP's own nonlinearity, m units more; s and the biases go into the weights."""
    config = SHAPES[0]
    small, wide = model(config), model(config.with_(ffn=config.ffn + 3))
    ids, _ = batch(config)
    adapter = mp.attach(small, mp.Parallel(m=3, scale=2.0, nonlinearity="gelu"))
    shake(adapter)
    weights = {path: p.data for path, p in mp.peft.base.base_parameters(small)}
    for path, delta in adapter.deltas.items():
        up, down = f"{path}.up_proj", f"{path}.down_proj"
        weights[f"{up}.weight"] = xp.concatenate([weights[f"{up}.weight"], delta.down.data])
        weights[f"{up}.bias"] = xp.concatenate([weights[f"{up}.bias"], delta.down_bias.data])
        both = [weights[f"{down}.weight"], 2.0 * delta.up.data]
        weights[f"{down}.weight"] = xp.concatenate(both, axis=1)
        weights[f"{down}.bias"] = weights[f"{down}.bias"] + 2.0 * delta.up_bias.data
    for path, p in wide.named_parameters():
        p.data = weights[path]
    assert xp.allclose(small(ids).data, wide(ids).data, rtol=0, atol=1e-12)


RECIPES = {
    "MAM": {"prefix": mp.Prefix(2), "parallel": mp.Parallel(3)},
    "UniPELT": {"prefix": mp.Prefix(2), "adapter": mp.Pfeiffer(3), "lora": mp.LoRA(2)},
    "gated": {"llama": mp.LlamaAdapter(2), "compacter": mp.Compacter(m=4, phm_dim=2)},
    "prompts": {"prompt": mp.Prompt(2), "prefix": mp.Prefix(2, True, 5)},
}
every_recipe = pytest.mark.parametrize("parts", RECIPES.values(), ids=RECIPES)


@both_shapes
@every_recipe
def test_several_train_at_once(config, parts, tmp_path):
    """All parts learn, the base does not; each is saved for itself, and they load together."""
    base, (ids, labels) = model(config), batch(config, B=8)
    frozen = {path: p.data.copy() for path, p in base.named_parameters()}
    attached = [mp.attach(base, method, name) for name, method in parts.items()]
    mp.use(base, list(parts))
    starts = [[p.data.copy() for p in part.parameters()] for part in attached]
    history = mp.fit(base, mp.Examples(ids, labels), steps=12, batch_size=8, lr=0.03, warmup=1)
    assert history.loss[-1] < history.loss[0] - 0.05
    for part, start in zip(attached, starts, strict=True):
        assert any((p.data != a).any() for p, a in zip(part.parameters(), start, strict=True))
    assert all((p.data == frozen[path]).all() for path, p in mp.peft.base.base_parameters(base))
    trained, fresh = to_numpy(base(ids).data), model(config)
    for name in parts:
        mp.save_adapter(base, name, tmp_path / name)
        mp.load_adapter(fresh, tmp_path / name)
    mp.use(fresh, list(parts))
    assert (to_numpy(fresh(ids).data) == trained).all()


@both_shapes
@every_recipe
def test_gradients_of_several_at_once(config, parts):
    base, (ids, labels) = model(config), batch(config)
    attached = [mp.attach(base, method, name) for name, method in parts.items()]
    mp.use(base, list(parts))
    for part in attached:
        shake(part)
    parameters = [p for part in attached for p in part.parameters()]
    base.loss(ids, labels).backward()
    rng = np.random.default_rng(1)
    directions = [xp.asarray(rng.standard_normal(p.shape)) for p in parameters]
    slope = sum(float((p.grad * d).sum()) for p, d in zip(parameters, directions, strict=True))
    losses, step = [], 1e-6
    for side in (step, -2 * step):
        for p, d in zip(parameters, directions, strict=True):
            p.data = p.data + side * d
        losses.append(base.loss(ids, labels).item())
    assert abs((losses[0] - losses[1]) / (2 * step) - slope) <= 1e-6 * abs(slope)
