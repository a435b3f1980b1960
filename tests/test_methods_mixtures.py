"""What is special to methods that mix several changes: Poly, AdapterFusion, UniPELT."""

import pytest

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from strategies import batch, model
from test_methods_adapters import shake

SHAPES = [
    make(vocab=11, context=24, width=8, layers=2, heads=4, kv_heads=2, ffn=7, init_std=0.3)
    for make in (mp.Config.gpt2, mp.Config.llama)
]
both_shapes = pytest.mark.parametrize("config", SHAPES, ids=("gpt2", "llama"))


def logits(net, ids):
    """Logits as a NumPy array."""
    return to_numpy(net(ids).data)


@both_shapes
def test_poly_of_one_skill_is_lora(config):
    """With α = 1, as Poly's factor is 1 / r."""
    net, (ids, _) = model(config), batch(config)
    poly = mp.attach(net, mp.Poly(2, n_skills=1, n_tasks=2, task=1), "poly")
    shake(poly)
    wanted = logits(net, ids)
    lora = mp.attach(net, mp.LoRA(2, lora_alpha=1.0), "lora")
    for path, delta in lora.deltas.items():
        delta.lora_A.data = poly.deltas[path].poly_lora_A.data[0, 0].T
        delta.lora_B.data = poly.deltas[path].poly_lora_B.data[0, 0].T
    assert np.allclose(logits(net, ids), wanted, rtol=0, atol=1e-11)


@both_shapes
def test_every_task_of_poly_is_a_lora_of_the_mean_factors(config):
    """Also after its task was set to another; then merging merges that one."""
    net, (ids, _) = model(config), batch(config)
    poly = mp.attach(net, mp.Poly(2, n_skills=3, n_tasks=2), "poly")
    shake(poly)
    first = logits(net, ids)
    for delta in poly.deltas.values():
        delta.task = 1
    second = logits(net, ids)
    assert np.abs(second - first).max() > 1e-3
    lora = mp.attach(net, mp.LoRA(2, lora_alpha=1.0), "lora")
    for path, delta in lora.deltas.items():
        p = poly.deltas[path]
        use = 1 / (1 + np.exp(-p.module_logits.data[1]))
        use = use / use.sum()
        delta.lora_A.data = np.tensordot(use, p.poly_lora_A.data[0], 1).T
        delta.lora_B.data = np.tensordot(use, p.poly_lora_B.data[0], 1).T
    assert np.allclose(logits(net, ids), second, rtol=0, atol=1e-11)
    mp.detach(net, "lora")
    mp.merge(net, "poly")
    assert np.allclose(logits(net, ids), second, rtol=0, atol=1e-11)
