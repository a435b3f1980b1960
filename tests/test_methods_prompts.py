"""What is special to prefixes, prompts, P-tuning and LLaMA-Adapter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.engine.tensor import no_grad
from minipeft.peft.base import Delta
from spec import proves
from strategies import batch, configs, model
from test_methods_adapters import shake

SHAPES = [
    make(vocab=11, context=24, width=8, layers=2, heads=4, kv_heads=2, ffn=7, init_std=0.3)
    for make in (mp.Config.gpt2, mp.Config.llama)
]
PROMPTS = [
    mp.Prefix(3),
    mp.Prefix(2, prefix_projection=True, encoder_hidden_size=5),
    mp.Prompt(3),
    mp.PTuning(2),
    mp.PTuning(3, encoder_hidden_size=5),
    mp.MPT(3, num_ranks=2, num_tasks=2),
    mp.CPT((1, 5, 3), (1, 2, 3)),
    mp.LlamaAdapter(3),
    mp.LlamaAdapter(2, adapter_layers=1, per_head=False),
]
both_shapes = pytest.mark.parametrize("config", SHAPES, ids=("gpt2", "llama"))
every_prompt = pytest.mark.parametrize("method", PROMPTS, ids=str)


@given(configs(), st.integers(1, 3), st.integers(1, 5))
def test_numbers(config, n, h):
    d, kv, L = config.width, config.kv_heads * config.head_width, config.layers
    wanted = {
        mp.Prefix(n): 2 * L * n * kv,
        mp.Prefix(n, True, h): n * kv + kv * h + h + h * 2 * L * kv + 2 * L * kv,
        mp.Prompt(n): n * d,
        mp.PTuning(n, h): n * d + d * h + h + h * h + h + h * d + d,
        mp.PTuning(n): n * d + 3 * (d * d + d),
        mp.MPT(n, num_ranks=h, num_tasks=2): n * d + 2 * h * (n + d),
        mp.CPT((1,) * n): n * d,
        mp.LlamaAdapter(n): L * (n * d + config.heads),
        mp.LlamaAdapter(n, 1, per_head=False): n * d + 1,
    }
    for method, number in wanted.items():
        assert mp.attach(model(config), method).count == method.count(config) == number


def test_p_tuning_v2_is_the_prefix():
    assert mp.PTuningV2 is mp.Prefix and not mp.PTuningV2().prefix_projection


@proves("prompt", "p-tuning")
@both_shapes
def test_a_trained_p_tuning_is_saved_as_a_prompt(config, tmp_path):
    base, (ids, labels) = model(config), batch(config)
    adapter = mp.attach(base, mp.PTuning(3, 5))
    shake(adapter)
    mp.save_adapter(base, "default", tmp_path)
    fresh = model(config)
    loaded = mp.load_adapter(fresh, tmp_path)
    assert loaded.method == mp.Prompt(3) and loaded.count == 3 * config.width
    assert (to_numpy(fresh(ids).data) == to_numpy(base(ids).data)).all()
    fresh.loss(ids, labels).backward()  # and it trains on
    assert np.abs(to_numpy(loaded.parameters()[0].grad)).max() > 0


@proves("mpt", "prompt")
@both_shapes
def test_mpt_whose_matrices_are_one_is_a_prompt(config):
    """And a task that is chosen later computes its own prompt."""
    base, (ids, _) = model(config), batch(config)
    adapter = mp.attach(base, mp.MPT(3, num_tasks=2))
    (delta,) = adapter.deltas.values()
    delta.prefix_task_cols.data[0], delta.prefix_task_rows.data[0] = 1.0, 1.0
    plain = mp.attach(base, mp.Prompt(3), "prompt")
    plain.parameters()[0].data = delta.prompt_embeddings.data
    wanted = to_numpy(base(ids).data)
    mp.use(base, "default")
    assert (to_numpy(base(ids).data) == wanted).all()
    delta.task = 1
    assert np.abs(to_numpy(base(ids).data) - wanted).max() > 1e-3


@both_shapes
def test_cpt_begins_as_in_context_learning(config):
    """Untrained, it is the base that has read the context before the text."""
    base, (ids, _) = model(config), batch(config)
    context = np.tile((1, 5, 3), (len(ids), 1))
    wanted = to_numpy(base(np.concatenate([context, ids], axis=1)).data)[:, 3:]
    mp.attach(base, mp.CPT((1, 5, 3)))
    assert np.allclose(to_numpy(base(ids).data), wanted, rtol=0, atol=1e-12)


def test_cpt_stays_in_its_ball_and_leaves_answers():
    config = SHAPES[1]
    base, (ids, labels) = model(config), batch(config, B=8)
    adapter = mp.attach(base, mp.CPT((1, 5, 3, 5), (1, 2, 3, 4)))
    mp.fit(base, mp.Examples(ids, labels), 5, 4, 0.1)
    lengths = np.linalg.norm(to_numpy(adapter.parameters()[0].data), axis=1)
    radius = 0.1 * (config.width / 2048) ** 0.5
    assert np.allclose(lengths, [radius, radius, radius, 0.0], rtol=1e-12)


@both_shapes
def test_llama_adapter_wakes_by_its_gate(config):
    base, (ids, labels) = model(config), batch(config)
    before = to_numpy(base(ids).data)
    adapter = mp.attach(base, mp.LlamaAdapter(3))
    assert (to_numpy(base(ids).data) == before).all()
    base.loss(ids, labels).backward()
    for delta in adapter.deltas.values():
        assert not delta.adaption_prompt.grad.any() and delta.adaption_gate.grad.all()
        delta.adaption_gate.data -= 0.1 * delta.adaption_gate.grad
    base.zero_grad()
    base.loss(ids, labels).backward()
    assert all(delta.adaption_prompt.grad.all() for delta in adapter.deltas.values())


def test_llama_adapter_sits_in_the_last_layers():
    config = SHAPES[0].with_(layers=3)
    adapter = mp.attach(model(config), mp.LlamaAdapter(2, adapter_layers=2))
    assert list(adapter.deltas) == ["blocks.1.attn.attend", "blocks.2.attn.attend"]
    with pytest.raises(ValueError, match="the model has 3"):
        mp.attach(model(config), mp.LlamaAdapter(2, adapter_layers=4))


@both_shapes
@every_prompt
def test_it_combines_with_lora(config, method):
    """Both at once are the one on top of the other merged, and both get gradients."""
    base, (ids, labels) = model(config), batch(config)
    parts = mp.attach(base, mp.LoRA(2), "lora"), mp.attach(base, method, "prompt")
    for part in parts:
        shake(part)
    mp.use(base, ["lora", "prompt"])
    base.loss(ids, labels).backward()
    assert all(np.abs(to_numpy(p.grad)).max() > 0 for part in parts for p in part.parameters())
    together = to_numpy(base(ids).data)
    mp.use(base, ["prompt", "lora"])
    assert np.allclose(to_numpy(base(ids).data), together, rtol=0, atol=1e-12)
    mp.merge(base, "lora")
    mp.use(base, "prompt")
    assert np.allclose(to_numpy(base(ids).data), together, rtol=0, atol=1e-12)


@both_shapes
def test_rows_use_different_ones(config):
    """One batch, each row with its own method, with padding and read piece by piece."""
    base, (ids, _) = model(config), batch(config, B=len(PROMPTS) + 2)
    real = np.ones(ids.shape, bool)
    real[::2, :2] = False
    names = [None, "lora", *map(str, PROMPTS)]
    shake(mp.attach(base, mp.LoRA(2), "lora"))
    for method in PROMPTS:
        shake(mp.attach(base, method, str(method)))
    alone = []
    with no_grad():
        for row, name in enumerate(names):
            mp.use(base, name)
            alone.append(to_numpy(base(ids[[row]], attention_mask=real[[row]]).data[0]))
        mp.use(base, rows=names)
        mixed = to_numpy(base(ids, attention_mask=real).data)
        start, cache = base.read(ids[:, :3], attention_mask=real[:, :3])
        rest, _ = base.read(ids[:, 3:], cache)
    seen = real[..., None]
    assert np.allclose(mixed * seen, np.stack(alone) * seen, rtol=0, atol=1e-11)
    pieces = np.concatenate([to_numpy(start.data), to_numpy(rest.data)], axis=1)
    assert np.allclose(pieces * seen, mixed * seen, rtol=0, atol=1e-11)


@every_prompt
def test_training_resumes(method, tmp_path):
    """Stopped and taken up again in another process's place, it ends with the same bits."""
    config, (ids, labels) = SHAPES[1], batch(SHAPES[1], B=8)
    data, run = mp.Examples(ids, labels), dict(steps=4, batch_size=4, lr=0.01)
    ends = []
    for pieces in ([4], [2, 4]):
        for until in pieces:
            base = model(config)  # a new one each time: only the checkpoint connects them
            adapter = mp.attach(base, method)
            mp.fit(base, data, checkpoint=tmp_path / str(pieces), until=until, **run)
        ends.append([p.data for p in adapter.parameters()])
    assert all((a == b).all() for a, b in zip(*ends, strict=True))
    start = mp.attach(model(config), method).parameters()
    assert any((p.data != end).any() for p, end in zip(start, ends[0], strict=True))


class Watched(Delta):
    """Attention left as it is, its keys and values noted."""

    def __init__(self):
        self.seen = []

    def __call__(self, f, q, k, v, mask):
        self.seen.append((q.data, k.data, v.data))
        return f(q, k, v, mask)


@both_shapes
def test_a_prefix_is_the_start_of_the_cache(config):
    base, (ids, _) = model(config), batch(config)
    adapter = mp.attach(base, mp.Prefix(3))
    watched = Watched()
    base.blocks[0].attn.attend.active.append((watched, None))
    base(ids)
    P = adapter.parameters()[0].data.reshape(3, 2 * 2, 2, 2).transpose(1, 2, 0, 3)
    _, k, v = watched.seen[0]
    assert (k[:, :, :3] == P[0]).all() and (v[:, :, :3] == P[1]).all()


def test_more_virtual_tokens_than_the_context_holds_are_refused():
    with pytest.raises(ValueError, match="24 virtual tokens fill a context of 24"):
        mp.attach(model(SHAPES[0]), mp.PTuning(24))
