"""The base, training and writing are those of transformers and PyTorch."""

import pytest
from hf import (
    assert_close,
    difference,
    from_hf,
    hf_logits,
    hf_loss,
    hf_model,
    is_gpt2,
    to_hf,
    torch,
)
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine import functional as F
from minipeft.engine.backend import np
from minipeft.engine.functional import IGNORE
from minipeft.engine.optimizer import AdamW, clip_scale, grad_norm, learning_rate
from strategies import batch, configs, model

PRECISIONS = {"float32": (1e-6, 1e-5), "float64": (1e-13, 1e-12)}  # of logits, of gradients


@st.composite
def shared_configs(draw):
    """A Config of a shape that transformers has too: no grouped heads in GPT-2, biases in both.

    Well conditioned, that is not too narrow for its LayerNorms nor so large in its weights that
    softmax saturates: otherwise float32 itself, here or there, is 1e-5 from the truth.
    """
    config = draw(configs(variants=False).filter(lambda config: config.width >= 8))
    config = config.with_(ffn=config.ffn + 4, init_std=0.1)
    if is_gpt2(config):
        return config.with_(kv_heads=config.heads)
    return config.with_(bias=draw(st.booleans()), rope_theta=draw(st.sampled_from([1e4, 5e5])))


@st.composite
def batches(draw, config):
    """(ids, labels, real): padding on the right, on the left, or none (real is None)."""
    B, T, seed = draw(st.integers(1, 3)), draw(st.integers(2, 8)), draw(st.integers(0, 99))
    ids, labels = batch(config, B, T, seed)
    side = draw(st.sampled_from([None, "left", "right"]))
    real = None
    if side:
        lengths = np.array(draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
        real = np.arange(T) < lengths[:, None]
        real = real[:, ::-1].copy() if side == "left" else real
        labels = np.where(real, labels, IGNORE)
    return ids, labels, real


@pytest.mark.parametrize("precision", PRECISIONS)
@given(st.data())
def test_logits_loss_and_every_gradient(precision, data):
    config = data.draw(shared_configs())
    ids, labels, real = data.draw(batches(config))
    ours = model(config, precision=precision)
    theirs = hf_model(ours)
    mine, yours = ours(ids, attention_mask=real), hf_logits(theirs, ids, real)
    off, steep = PRECISIONS[precision]
    seen = np.ones(ids.shape, bool) if real is None else real
    assert difference(mine.data[seen], yours[torch.tensor(seen)]) <= off
    loss, truth = F.cross_entropy(mine, labels), hf_loss(yours, labels)
    assert difference(np.array(loss.data), truth) <= off
    loss.backward()
    truth.backward()
    gradients = {path: p.grad for path, p in ours.named_parameters()}
    assert_close(
        to_hf(gradients, config), {n: p.grad for n, p in theirs.named_parameters()}, steep
    )


@given(shared_configs())
def test_weights_go_to_hf_and_back(config):
    ours = model(config)
    weights = {path: p.data for path, p in ours.named_parameters()}
    back = from_hf(hf_model(ours).state_dict(), config, weights)
    assert all((back[path] == a).all() for path, a in weights.items())


@given(shared_configs(), st.integers(0, 99))
def test_the_loss_is_what_hf_gives_for_its_labels(config, seed):
    """HF shifts labels by one; ours are shifted in the data, so the last has no counterpart."""
    ids, labels = batch(config, B=3, T=6, seed=seed)
    labels[:, -1] = labels[0, 0] = IGNORE
    ours = model(config, precision="float32")
    shifted = torch.tensor(np.roll(labels, 1, axis=1))
    theirs = hf_model(ours)(input_ids=torch.tensor(ids), labels=shifted).loss
    assert difference(np.array(ours.loss(ids, labels).data), theirs) <= 1e-6


@given(shared_configs(), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data())
def test_greedy_writing(config, lengths, data):
    """Prompts of several lengths, and a token that ends a row."""
    ids, _ = batch(config, len(lengths), 6, seed=data.draw(st.integers(0, 99)))
    stop = data.draw(st.none() | st.integers(0, config.vocab - 1))
    ours = model(config)
    prompts = [list(row[:n]) for row, n in zip(ids, lengths, strict=True)]
    written = mp.generate(ours, prompts, 10, stop=stop)
    T = max(lengths)
    mask = torch.tensor([[int(i >= T - n) for i in range(T)] for n in lengths])
    padded = torch.tensor([[0] * (T - len(prompt)) + prompt for prompt in prompts])
    theirs = (
        hf_model(ours)
        .generate(
            padded,
            attention_mask=mask,
            max_new_tokens=10,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )[:, T:]
        .tolist()
    )
    if stop is not None:
        theirs = [row[: row.index(stop) + 1 if stop in row else None] for row in theirs]
    assert written == theirs


@given(st.data())
def test_cross_entropy_and_its_gradient(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    B, T, V = (data.draw(st.integers(1, 7)) for _ in range(3))
    logits, labels = rng.normal(0, 5, (B, T, V)), rng.integers(0, V, (B, T))
    labels[rng.random((B, T)) < 0.3] = IGNORE
    labels[0, 0] = 0
    ours = mp.Tensor(logits, requires_grad=True)
    theirs = torch.tensor(logits, requires_grad=True)
    loss, truth = F.cross_entropy(ours, labels), hf_loss(theirs, labels)
    loss.backward()
    truth.backward()
    assert abs(loss.item() - truth.item()) <= 1e-14 * max(1, abs(truth.item()))
    assert difference(ours.grad, theirs.grad, 1e-3) <= 1e-13


SHAPES = {"matrix": (3, 4), "bias": (4,), "three axes": (2, 3, 2), "number": ()}
SHAPES["unused"] = (2, 2)


@given(
    decay=st.floats(0, 0.5),
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    clip=st.none() | st.floats(0.01, 100),
    rate=st.floats(0.1, 20),
    seed=st.integers(0, 99),
)
def test_adamw_in_its_groups_with_clipping_and_schedule(decay, betas, clip, rate, seed):
    """Matrices decay and vectors do not; a parameter's own rate is a group's learning rate."""
    rng, steps, warmup, peak = np.random.default_rng(seed), 12, 4, 0.05
    with mp.dtype("float64"):
        ours = {name: mp.Parameter(rng.standard_normal(s)) for name, s in SHAPES.items()}
    ours["three axes"].rate = rate
    theirs = {name: torch.tensor(p.data, requires_grad=True) for name, p in ours.items()}
    groups = [
        {
            "params": [theirs[name]],
            "lr": peak * p.rate,
            "weight_decay": decay if p.ndim > 1 else 0.0,
        }
        for name, p in ours.items()
    ]
    optimizer, reference = (
        AdamW(ours.values(), betas, weight_decay=decay),
        torch.optim.AdamW(groups, betas=betas),
    )
    rising = torch.optim.lr_scheduler.LinearLR(reference, 1 / warmup, total_iters=warmup - 1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(reference, steps - warmup)
    schedule = torch.optim.lr_scheduler.SequentialLR(reference, [rising, falling], [warmup])
    for step in range(steps):
        for name, p in ours.items():
            if name != "unused":
                p.grad = rng.standard_normal(p.shape) * 3.0**step
                theirs[name].grad = torch.tensor(p.grad)
        norm = grad_norm(ours.values())
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip)
        optimizer.step(learning_rate(step, steps, peak, warmup), clip_scale(norm, clip))
        reference.step()
        schedule.step()
    assert_close({name: p.data for name, p in ours.items()}, theirs, 1e-12)
