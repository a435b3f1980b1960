"""What is special to methods that mix several changes: Poly, AdapterFusion, UniPELT."""

import pytest

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from spec import proves
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


@proves("poly", "lora")
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


def arrays_of(delta):
    """Z, A and B of one change of Poly."""
    return delta.module_logits, delta.poly_lora_A, delta.poly_lora_B


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
        z, a, b = (to_numpy(p.data) for p in arrays_of(poly.deltas[path]))
        use = 1 / (1 + np.exp(-z[1]))
        use = use / use.sum()
        delta.lora_A.data = xp.asarray(np.tensordot(use, a[0], 1).T)
        delta.lora_B.data = xp.asarray(np.tensordot(use, b[0], 1).T)
    assert np.allclose(logits(net, ids), second, rtol=0, atol=1e-11)
    mp.detach(net, "lora")
    mp.merge(net, "poly")
    assert np.allclose(logits(net, ids), second, rtol=0, atol=1e-11)


def two_adapters(net, **options):
    """Two shaken bottleneck adapters on a model, none in use."""
    for i, name in enumerate(("past", "copy")):
        shake(mp.attach(net, mp.Pfeiffer(3, **options), name), i)
    mp.use(net, None)


def parameters_of(net, *names):
    """What some adapters train."""
    return [p for name in names for p in mp.adapters(net)[name].parameters()]


@both_shapes
def test_adapterfusion_of_attached_adapters_trains_its_attention_alone(config):
    net, (ids, labels) = model(config), batch(config)
    two_adapters(net)
    kept = [
        p.data.copy() for name in ("past", "copy") for p in mp.adapters(net)[name].parameters()
    ]
    fusion = mp.attach(net, mp.AdapterFusion(3, adapters=("past", "copy")), "both")
    assert fusion.count == fusion.method.count(config) == 2 * 3 * 8 * 8
    mp.fit(net, mp.Examples(ids, labels), 3, 2, 0.1)
    now = [p.data for p in parameters_of(net, "past", "copy")]
    assert all((a == b).all() for a, b in zip(kept, now, strict=True))
    for delta in fusion.deltas.values():
        frozen = [p.data for part in delta.parts for p in part.parameters()]
        assert not any(p.requires_grad for part in delta.parts for p in part.parameters())
        assert all(any((a == b).all() for b in kept if a.shape == b.shape) for a in frozen)


@proves("adapterfusion", "pfeiffer")
@both_shapes
def test_adapterfusion_of_one_adapter_is_that_adapter(config):
    """One adapter has the share 1, and V = I at first."""
    net, (ids, _) = model(config), batch(config)
    two_adapters(net)
    mp.use(net, "copy")
    wanted = logits(net, ids)
    mp.attach(net, mp.AdapterFusion(3, adapters=("copy",)), "fusion")
    assert np.allclose(logits(net, ids), wanted, rtol=0, atol=1e-12)


@both_shapes
def test_a_fusion_of_attached_adapters_is_saved_with_them(config, tmp_path):
    net, (ids, _) = model(config), batch(config)
    two_adapters(net)
    shake(mp.attach(net, mp.AdapterFusion(3, adapters=("past", "copy")), "both"))
    mp.save_adapter(net, "both", tmp_path)
    fresh = model(config)
    loaded = mp.load_adapter(fresh, tmp_path)
    assert loaded.method == mp.AdapterFusion(3, n_adapters=2)
    assert (logits(fresh, ids) == logits(net, ids)).all()


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (mp.AdapterFusion(3, adapters=("past", "pest")), "did you mean 'past'"),
        (mp.AdapterFusion(4, adapters=("past",)), "has no bottleneck of m = 4"),
        (mp.AdapterFusion(3, "houlsby", adapters=("past",)), r"at blocks\.0\.attn"),
        (mp.AdapterFusion(3, nonlinearity="gelu", adapters=("past",)), "and gelu"),
        (mp.AdapterFusion(3, adapters=("lora",)), "'lora' is LoRA"),
    ],
)
def test_adapterfusion_refuses_what_it_cannot_fuse(method, message):
    net = model(SHAPES[0])
    two_adapters(net)
    mp.attach(net, mp.LoRA(2), "lora")
    with pytest.raises(ValueError, match=message):
        mp.attach(net, method, "both")
    assert [*mp.adapters(net)] == ["past", "copy", "lora"]


@proves("unipelt", "prefix")
@proves("unipelt", "lora")
@proves("unipelt", "pfeiffer")
def test_unipelt_with_open_gates_is_prefix_lora_and_adapter_together():
    """In a model without positions, which a prefix would shift; every gate is σ(50) = 1."""
    config = SHAPES[1].with_(nope=(0, 1))
    net, (ids, _) = model(config), batch(config)
    parts = mp.Prefix(3), mp.LoRA(2), mp.Pfeiffer(3)
    prefix, lora, adapter = (mp.attach(net, part, part.name) for part in parts)
    for part in (prefix, lora, adapter):
        shake(part)
    mp.use(net, ["prefix", "lora", "pfeiffer"])
    wanted = logits(net, ids)
    all_three = mp.attach(net, mp.UniPELT(3, m=3, r=2), "unipelt")
    slots = prefix.deltas["start"].prompt_embeddings.data.reshape(3, 2, 2, 2, 2)
    for path, delta in all_three.deltas.items():
        delta.gate.bias.data[...] = 50.0
        if path.endswith("attend"):
            keys, values = slots[:, int(path.split(".")[1])].transpose(1, 2, 0, 3)
            delta.prefix_keys.data, delta.prefix_values.data = keys, values
            continue
        plain = (adapter if path.endswith("mlp") else lora).deltas[path]
        for name, p in plain.named_parameters():
            getattr(delta, name).data = p.data
    assert np.allclose(logits(net, ids), wanted, rtol=0, atol=1e-11)
