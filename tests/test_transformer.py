"""The transformer: its equations, its gradient, what may not be seen, its cache, its errors."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
import reference
from gradients import slope
from minipeft.engine import functional as F
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.tensor import gradients
from minipeft.model.transformer import KVCache, rotation
from minipeft.train.batch_gradient import chunked_loss
from strategies import batch, configs, model
from test_config import mixed_configs

seeds = st.integers(0, 2**32 - 1)
SMALL = dict(vocab=7, context=8, width=4, layers=3, heads=2)


def logits(net, ids, **how):
    """The logits as an array on the host."""
    with mp.no_grad():
        return to_numpy(net(ids, **how).data)


def close(a, b, **tolerance):
    """Equal to the rounding of sums in another order."""
    np.testing.assert_allclose(a, b, **({"rtol": 1e-9, "atol": 1e-11} | tolerance))


# Values and gradients


@given(mixed_configs(), st.integers(1, 16))
def test_logits_are_those_of_the_equations(config, T):
    net = model(config)
    ids, _ = batch(config, B=2, T=T)
    close(logits(net, ids), [reference.logits(net, row) for row in ids])


@given(configs())
def test_float32_is_float64_to_rounding_and_stays_float32(config):
    config = config.with_(norm_eps=0.1)
    exact, net = model(config), model(config, precision="float32")
    ids, labels = batch(config)
    found = logits(net, ids)
    assert found.dtype == "float32"
    close(found, logits(exact, ids), rtol=1e-3, atol=1e-4)
    loss = net.loss(ids, labels)
    assert loss.dtype == "float32"
    for g in gradients(loss).values():
        assert g.dtype == "float32" and np.isfinite(to_numpy(g)).all()


@given(configs(), seeds)
def test_the_gradient_of_every_parameter(config, seed):
    net, rng = model(config.with_(norm_eps=0.1)), np.random.default_rng(seed)
    ids, labels = batch(config, B=2, T=4, seed=seed)
    labels[0, 1:3] = IGNORE
    found = gradients(net.loss(ids, labels))
    for path, p in net.named_parameters():
        way, start = rng.standard_normal(p.shape), p.data
        way = xp.asarray(way / np.linalg.norm(way))

        def loss(t, p=p, way=way, start=start):
            p.data = start + t * way
            with mp.no_grad():
                return net.loss(ids, labels).item()

        expected = slope(loss)
        p.data = start
        along = float((found[p.node] * way).sum())
        assert along == pytest.approx(expected, rel=1e-7, abs=1e-10), path


@given(configs(), seeds)
def test_the_loss_is_the_mean_over_labels_that_are_asked(config, seed):
    net = model(config)
    ids, labels = batch(config, seed=seed)
    labels[np.random.default_rng(seed).random(labels.shape) < 0.5] = IGNORE
    labels[0, 0] = 0
    z = logits(net, ids)
    nats = np.log(np.exp(z).sum(axis=-1)) - np.take_along_axis(
        z, np.maximum(labels, 0)[..., None], axis=-1
    ).squeeze(-1)
    asked = labels != IGNORE
    assert net.loss(ids, labels).item() == pytest.approx(nats[asked].mean(), rel=1e-10)
    for count, nats_of_all in ((None, nats[asked].mean()), (7, nats[asked].sum() / 7)):
        loss = chunked_loss(net, ids, labels, count).item()
        assert loss == pytest.approx(nats_of_all, rel=1e-10)


@given(configs())
def test_what_is_not_asked_changes_neither_loss_nor_gradient(config):
    net = model(config)
    ids, labels = batch(config)
    labels[:, 2:] = IGNORE
    changed = ids.copy()
    changed[:, 3:] = (ids[:, 3:] + 1) % config.vocab
    one, other = net.loss(ids, labels), net.loss(changed, labels)
    assert one.item() == other.item()
    found, again = gradients(one), gradients(other)
    for p in net.parameters():
        close(to_numpy(found[p.node]), to_numpy(again[p.node]))


class Kept:
    """Noise by which nothing is dropped."""

    def random(self, shape, dtype):
        return np.ones(shape, dtype)


@given(configs())
def test_dropout_acts_on_the_embeddings_and_on_what_is_added_to_the_stream(config):
    config = config.with_(tied=False)
    wet, dry = model(config.with_(dropout=0.5)), model(config)
    for path, p in dry.named_parameters():  # what is kept counts twice
        if path.split(".")[-2] in ("wte", "wpe", "o_proj", "down_proj"):
            p.data *= 2.0
    ids, _ = batch(config)
    with wet.training(Kept()):
        close(logits(wet, ids), logits(dry, ids))


# What may not be seen


@given(configs(), st.integers(0, 7), seeds)
def test_causality_to_the_last_bit(config, t, seed):
    for precision in ("float32", "float64"):
        net = model(config, precision=precision)
        ids, _ = batch(config, B=2, T=8, seed=seed)
        before = logits(net, ids)
        ids[:, t] = (ids[:, t] + 1) % config.vocab
        after = logits(net, ids)
        assert (after[:, :t] == before[:, :t]).all()


def test_a_token_is_seen_from_its_own_place_on():
    net = model(mp.Config.gpt2(**SMALL))
    ids, _ = batch(net.config, B=1, T=8)
    before = logits(net, ids)
    ids[:, 3] = (ids[:, 3] + 1) % 7
    assert (logits(net, ids)[:, 3:] != before[:, 3:]).any(axis=(0, 2)).all()


@given(configs(), st.integers(0, 2))
def test_rows_do_not_see_each_other(config, row):
    net = model(config)
    ids, _ = batch(config)
    before = logits(net, ids)
    close(logits(net, ids[row : row + 1])[0], before[row])
    others = np.arange(3) != row
    ids[others] = (ids[others] + 1) % config.vocab
    assert (logits(net, ids)[row] == before[row]).all()


@st.composite
def paddings(draw, B=3, T=8):
    """Which of (B, T) tokens are real: padded on the left, the right, or anywhere."""
    kind = draw(st.sampled_from(["left", "right", "anywhere"]))
    if kind == "anywhere":
        real = np.random.default_rng(draw(seeds)).random((B, T)) < 0.6
        real[:, draw(st.integers(0, T - 1))] = True
        return real
    lengths = np.array(draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))[:, None]
    places = np.arange(T)
    return places >= T - lengths if kind == "left" else places < lengths


@given(configs(), paddings(), st.sampled_from([bool, int, float, list]))
def test_padding_is_inert(config, real, kind):
    net = model(config)
    ids, _ = batch(config, T=8)
    given_as = real.tolist() if kind is list else real.astype(kind)
    found = logits(net, ids, attention_mask=given_as)
    assert np.isfinite(found).all()
    for row in range(3):
        alone = logits(net, ids[row, real[row]][None])[0]
        close(found[row, real[row]], alone)
    filled = np.where(real, ids, (ids + 1) % config.vocab)  # other padding: the same bits
    assert (logits(net, filled, attention_mask=real)[real] == found[real]).all()


@given(configs(), paddings(), st.lists(st.integers(1, 4), min_size=8))
def test_reading_in_chunks_equals_reading_at_once(config, real, sizes):
    net = model(config)
    ids, _ = batch(config, T=8)
    whole, cache, parts, start = (
        logits(net, ids, attention_mask=real),
        KVCache(config.layers),
        [],
        0,
    )
    with mp.no_grad():
        for size in sizes:
            chunk = slice(start, min(start + size, 8))
            some = None if real[:, chunk].all() else real[:, chunk]
            if chunk.start < chunk.stop:
                parts.append(to_numpy(net.read(ids[:, chunk], cache, some)[0].data))
            start = chunk.stop
    assert cache.length == 8
    close(np.concatenate(parts, axis=1)[real], whole[real])


@given(configs(), paddings(T=5))
def test_a_cache_after_padding_goes_on_without_it(config, real):
    net = model(config)
    ids, _ = batch(config, T=8)
    with mp.no_grad():
        _, cache = net.read(ids[:, :5], attention_mask=real)
        found = to_numpy(net.read(ids[:, 5:], cache)[0].data)
    seen = np.concatenate([real, np.ones((3, 3), bool)], axis=1)
    close(found, logits(net, ids, attention_mask=seen)[:, 5:])


@given(configs())
def test_copies_of_a_cache_go_on_apart(config):
    net = model(config)
    ids, _ = batch(config, T=6)
    with mp.no_grad():
        _, cache = net.read(ids[:, :2])
        net.read(ids[:, 2:3], cache)  # now in memory with room for more
        other = copy.copy(cache)
        other.keys, other.values = list(cache.keys), list(cache.values)
        for t in (3, 4):  # in turn: neither may write over what the other has read
            found = to_numpy(net.read(ids[:, t : t + 1], cache)[0].data)
            net.read(ids[:, 5:], other)
    close(found, logits(net, ids[:, :5])[:, 4:])


# Positions and heads


@given(st.integers(1, 4), st.integers(0, 1000), seeds)
def test_rope_sees_distances_only(half, shift, seed):
    config = mp.Config.llama(**SMALL | dict(width=4 * half))
    q, k = np.random.default_rng(seed).standard_normal((2, 1, 2, 6, 2 * half))

    def scores(start):
        turn = rotation(config, np.arange(start, start + 6), "float64")
        queries, keys = (to_numpy(turn(xp.asarray(x), 0).data) for x in (q, k))
        return queries @ keys.swapaxes(-1, -2)

    close(scores(shift), scores(0), atol=1e-9)
    turned = to_numpy(rotation(config, np.arange(6), "float64")(xp.asarray(q), 0).data)
    close(np.linalg.norm(turned, axis=-1), np.linalg.norm(q, axis=-1))  # a rotation
    assert (turned[..., 0, :] == q[..., 0, :]).all()  # position 0 is not turned
    assert not np.allclose(turned[..., 1, :], q[..., 1, :])


@given(configs())
def test_grouped_heads_are_repeated_heads(config):
    net = model(config)
    full = model(config.with_(kv_heads=config.heads))
    K, groups = config.head_width, config.heads // config.kv_heads
    theirs = dict(net.named_parameters())
    for path, p in full.named_parameters():
        a = theirs[path].data
        if "k_proj" in path or "v_proj" in path:
            a = a.reshape(config.kv_heads, K, -1).repeat(groups, axis=0)
        p.data = a.reshape(p.shape).copy()
    ids, _ = batch(config)
    close(logits(full, ids), logits(net, ids))


@given(configs())
def test_a_tied_head_shares_its_table(config):
    tied, free = model(config.with_(tied=True)), model(config.with_(tied=False))
    for path, p in free.named_parameters():
        source = path.replace("lm_head", "wte")
        p.data = dict(tied.named_parameters())[source].data.copy()
    ids, labels = batch(config)
    assert (logits(tied, ids) == logits(free, ids)).all()
    assert "lm_head.weight" not in dict(tied.named_parameters())
    one, two = gradients(tied.loss(ids, labels)), gradients(free.loss(ids, labels))
    both = two[free.wte.weight.node] + two[free.lm_head.weight.node]
    close(to_numpy(one[tied.wte.weight.node]), to_numpy(both))


def test_a_rotation_is_none_without_rope():
    x = xp.ones((1, 2, 3, 2))
    assert rotation(mp.Config.gpt2(**SMALL), np.arange(3), "float64")(x, 0) is x
    assert F.rope(x, xp.ones((3, 1)), xp.zeros((3, 1))).shape == x.shape
