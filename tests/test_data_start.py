"""Starts from data: when they are made, of which batches, and what they leave alone."""

import pytest

import minipeft as mp
from laws.case import bits, close, logits
from laws.failing import count_lines, interrupted
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.peft.methods.lora import leading
from minipeft.peft.methods.lora_ga import weight_gradients
from spec import proves
from strategies import batch, model
from test_train import SMALL, examples, weights

HOW = dict(steps=6, batch_size=5, warmup=2)
STARTS = [mp.EVA(2, init_batches=2), mp.LoRAGA(2, init_batches=2), mp.CorDA(2, init_batches=2)]
each = pytest.mark.parametrize("method", STARTS, ids=lambda method: method.name)


def attached(method):
    net = mp.Transformer(SMALL, 0)
    return net, mp.attach(net, method)


def first(data):
    """The batches that a run begins with."""
    return [data.batch(step, HOW["batch_size"], 0) for step in range(2)]


@each
def test_fit_starts_from_its_first_batches_and_does_so_once(method):
    (net, _), (by_hand, _), data = attached(method), attached(method), examples()
    mp.fit(net, data, **HOW)
    mp.start_from_data(by_hand, iter(first(data)))
    mp.start_from_data(by_hand, [])  # it is started, and asks for nothing
    mp.fit(by_hand, data, **HOW)
    assert (weights(by_hand) == weights(net)).all()
    trained, lora = weights(net), weights(attached(mp.LoRA(2))[0])
    mp.start_from_data(net, first(data))
    assert (weights(net) == trained).all() and (trained != lora).any()


@each
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_resumed_run_starts_where_it_was(method, stop, tmp_path):
    whole, _ = attached(method)
    history = mp.fit(whole, examples(), **HOW)
    how = HOW | dict(checkpoint=tmp_path / "run.safetensors")
    mp.fit(attached(method)[0], examples(), until=stop, **how)
    net, _ = attached(method)
    second = mp.fit(net, examples(), **how)
    assert (weights(net) == weights(whole)).all() and second.loss == history.loss
    ids, _ = batch(SMALL)
    assert (logits(net, ids) == logits(whole, ids)).all()  # B₀ A₀ were in the checkpoint


@each
def test_workers_begin_with_the_same_start(method):
    found = []
    for how in ({}, {"workers": 2}, {"accumulate": 2}):
        net, _ = attached(method)
        found.append(mp.fit(net, examples(), **HOW, **how).loss)
    assert np.allclose(found[1:], found[0], rtol=1e-5)


@each
def test_an_interrupted_start_is_undone(method):
    def begin():
        net, adapter = attached(method)
        return net, adapter, lambda: mp.start_from_data(net, first(examples()))

    ids, (net, adapter, work) = batch(SMALL)[0], begin()
    lines = count_lines(work)
    assert adapter.started
    for line in np.random.default_rng(0).integers(1, lines + 1, 12):
        net, adapter, work = begin()
        before = weights(net), logits(net, ids), bits(net)
        assert interrupted(work, int(line))
        after = weights(net), logits(net, ids), bits(net)
        assert adapter.started or all(
            np.array_equal(a, b) for a, b in zip(before, after, strict=True)
        )
        assert not any(m.active[1:] for _, m in net.named_modules() if hasattr(m, "active"))


@each
def test_what_no_start_can_be_made_of_is_an_error(method):
    net, adapter = attached(method)
    with pytest.raises(ValueError, match="there are none"):
        mp.start_from_data(net, [])
    net.blocks[0].ln_1.weight.data[...] = xp.nan
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="not finite"):
        mp.fit(net, examples(), **HOW)
    assert not adapter.started


def test_gradients_of_weights_are_those_of_a_bare_model_packed_or_not():
    config = mp.Config.llama(vocab=11, context=16, width=8, layers=2, heads=4, ffn=6)
    net, twin, batches = model(config), model(config), [batch(config), batch(config, seed=1)]
    mp.quantize(net, "nf4", block=4)
    held = dict(net.named_parameters())
    for path, p in twin.named_parameters():
        p.data = held[path].data
    paths = [f"blocks.{i}.{name}" for i in (0, 1) for name in ("attn.k_proj", "mlp.down_proj")]
    found = weight_gradients(net, paths, batches)
    for ids, labels in batches:
        twin.loss(ids, labels).backward()
    wanted = dict(twin.named_parameters())
    for path in paths:
        half = to_numpy(wanted[f"{path}.weight"].grad) / 2
        close(to_numpy(found[path]), half, 1e-11, path)


@each
def test_it_starts_beside_virtual_tokens_and_other_adapters(method):
    net, data = model(SMALL), examples()
    mp.attach(net, mp.Prompt(2), "prompt")
    mp.attach(net, mp.IA3(), "ia3")
    adapter = mp.attach(net, method, "started")
    mp.use(net, ["prompt", "ia3", "started"])
    before = logits(net, data.ids[:3])
    mp.start_from_data(net, first(data))
    assert adapter.started and not mp.adapters(net)["ia3"].started
    close(logits(net, data.ids[:3]), before, 1e-11, "logits after the start")


def corda(w, squares, kind="ipm"):
    """CorDA's B₀ and A₀ of rank 2."""
    method = mp.CorDA(corda_method=kind)
    return map(to_numpy, method.factors_for(xp.asarray(w), xp.asarray(squares), 2))


@proves("corda", "pissa")
@pytest.mark.parametrize("kind", ["ipm", "kpm"])
def test_corda_of_inputs_that_are_alike_in_all_directions_is_pissa(kind):
    rng = np.random.default_rng(0)
    w = rng.standard_normal((7, 5))
    b, a = corda(w, 3.0 * np.eye(5), kind)
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    if kind == "ipm":
        pissa_b, pissa_a = map(to_numpy, leading(xp.asarray(w), 2))
        close(np.abs(b), np.abs(pissa_b), 1e-12, "B₀")
        close(np.abs(a), np.abs(pissa_a), 1e-12, "A₀")
    part = slice(2) if kind == "ipm" else slice(3, 5)
    close(b @ a, (u[:, part] * s[part]) @ vt[part], 1e-12, "B₀ A₀")


def test_no_start_of_rank_r_leaves_less_of_what_the_data_see():
    """‖(W − M) C‖ of all M of rank 2: CorDA's is the least, PiSSA's and others' are more."""
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal((6, 5)), rng.standard_normal((40, 5)) * [9, 1, 1, 1, 0.1]
    c = x.T @ x / np.diag(x.T @ x).mean() + 0.01 * np.eye(5)
    b, a = corda(w, x.T @ x)
    left = np.linalg.norm((w - b @ a) @ c)
    others = [map(to_numpy, leading(xp.asarray(w), 2))] + [
        (b + 0.1 * rng.standard_normal(b.shape), a) for _ in range(9)
    ]
    assert all(np.linalg.norm((w - b @ a) @ c) > left for b, a in others)
