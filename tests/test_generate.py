"""Writing: the likeliest token, drawn ones, stopping, batches of unequal prompts, errors."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import Tensor
from minipeft.model.generate import Sampling, choose, generate, stream
from strategies import configs, model

CONFIG = mp.Config.gpt2(vocab=9, context=16, width=4, layers=1, heads=2)


@st.composite
def prompts(draw, config, longest=6):
    """One to four prompts of unequal lengths."""
    tokens = st.integers(0, config.vocab - 1)
    return draw(
        st.lists(st.lists(tokens, min_size=1, max_size=longest), min_size=1, max_size=4)
    )


def next_logits(net, ids):
    """Logits of the token after ids, by a full forward pass."""
    with mp.no_grad():
        return to_numpy(net([ids]).data)[0, -1]


def greedy(net, ids, max_new):
    """The likeliest continuation, each token by a full forward pass."""
    ids, n = list(ids), len(ids)
    for _ in range(max_new):
        ids.append(int(next_logits(net, ids).argmax()))
    return ids[n:]


@given(configs(), st.data())
def test_greedy_is_the_likeliest_token_step_by_step(config, data):
    net = model(config)
    asked = data.draw(prompts(config))
    assert generate(net, asked, 7) == [greedy(net, prompt, 7) for prompt in asked]


@given(configs(), st.data(), st.integers(0, 99))
def test_a_row_of_a_batch_is_written_as_if_alone(config, data, seed):
    net = model(config)
    asked = data.draw(prompts(config))
    stop = data.draw(st.integers(0, config.vocab - 1))
    together = generate(net, asked, 9, stop=stop)
    assert together == [generate(net, [prompt], 9, stop=stop)[0] for prompt in asked]
    for row in together:
        assert row.index(stop) == len(row) - 1 if stop in row else len(row) == 9
    free = generate(net, asked, 9)
    assert all(row == other[: len(row)] for row, other in zip(together, free, strict=True))


@given(configs(), st.data(), st.integers(0, 99))
def test_a_seed_gives_the_same_draws(config, data, seed):
    net, asked = model(config), data.draw(prompts(config))
    how = dict(max_new=8, temperature=data.draw(st.floats(0.1, 5)), top_k=data.draw(TOP_K))
    one = generate(net, asked, rng=seed, **how)
    assert one == generate(net, asked, rng=seed, **how)
    assert one == generate(net, asked, rng=np.random.default_rng(seed), **how)
    state = np.random.get_state()[1].copy()
    generate(net, asked, rng=seed, **how)
    assert (np.random.get_state()[1] == state).all()  # the global generator is left alone


TOP_K = st.sampled_from([None, 1, 2, 3, 100])


@given(configs(), st.data(), st.floats(0.1, 9))
def test_one_choice_is_greedy(config, data, temperature):
    net, asked = model(config), data.draw(prompts(config))
    drawn = generate(net, asked, 5, temperature=temperature, top_k=1, rng=0)
    assert drawn == generate(net, asked, 5)
    nearly_zero = generate(net, asked, 5, temperature=1e-9, rng=0)
    assert nearly_zero == generate(net, asked, 5)


def test_two_seeds_write_differently():
    net = model(CONFIG)
    texts = [generate(net, [[1]], 12, temperature=2.0, rng=seed)[0] for seed in range(4)]
    assert len(set(map(tuple, texts))) > 1
    assert any(len(set(text)) > 1 for text in texts)


@given(
    st.floats(0.3, 3.0),
    st.sampled_from([None, 2, 3, 6, 99]),
    st.sampled_from([None, 1e-9, 0.5, 0.9, 1.0]),
    st.integers(0, 99),
)
def test_draws_follow_the_softmax(temperature, top_k, top_p, seed):
    logits = np.array([0.3, -1.0, 1.2, 0.0, -0.5, 0.9])
    n = 4000
    options = Sampling(temperature, top_k, top_p, 1.0)
    drawn = choose(np.tile(logits, (n, 1)), options, None, np.random.default_rng(seed))
    p = np.exp(logits / temperature)
    if top_k is not None:
        p[np.argsort(logits)[: -top_k or None][: max(0, 6 - top_k)]] = 0.0
    p /= p.sum()
    if top_p is not None:  # a token is left out if those before it have enough
        order = np.argsort(-p)
        p[order[1:][np.cumsum(p[order])[:-1] >= top_p]] = 0.0
        p /= p.sum()
    shares = np.bincount(drawn, minlength=6) / n
    assert (shares[p == 0] == 0).all()
    assert (abs(shares - p) <= 5 * np.sqrt(p * (1 - p) / n)).all()


def test_a_penalty_makes_what_was_written_less_likely():
    logits = np.array([[2.0, 1.5, -1.0, -1.5], [2.0, 1.5, -1.0, -1.5]])
    greedy = Sampling(0.0, None, None, 2.0)
    assert choose(logits, greedy, [[0, 0, 2], [1]], None).tolist() == [1, 0]
    assert choose(-logits, greedy, [[3], [3, 3]], None).tolist() == [2, 2]
    net = model(CONFIG, seed=3)
    plain = generate(net, [[1, 2]], 12)[0]
    varied = generate(net, [[1, 2]], 12, repetition_penalty=1e6)[0]
    assert len(set(varied[:5])) == 5 > len(set(plain))


def test_a_row_ends_after_any_of_several_tokens():
    net = model(CONFIG, seed=3)
    plain = generate(net, [[1], [2, 3]], 12, temperature=1.0, rng=0)
    ended = generate(net, [[1], [2, 3]], 12, temperature=1.0, rng=0, stop=[4, 7])
    for row, whole in zip(ended, plain, strict=True):
        first = min([whole.index(t) for t in (4, 7) if t in whole], default=11)
        assert row == whole[: first + 1]


def test_tokens_arrive_one_by_one():
    net = model(CONFIG, seed=3)
    steps = list(stream(net, [[1], [2, 3]], 6))
    assert [sorted(step) for step in steps] == [[0, 1]] * 6
    rows = [[step[row] for step in steps] for row in (0, 1)]
    assert rows == generate(net, [[1], [2, 3]], 6)


def test_draws_are_of_the_logits_of_the_model():
    net, prompt, n = model(CONFIG, seed=3), [1, 2, 3], 3000
    for p in net.parameters():
        p.data *= 3.0
    drawn = [row[0] for row in generate(net, [prompt] * n, 1, temperature=1.0, rng=5)]
    z = next_logits(net, prompt)
    p = np.exp(z - z.max())
    p /= p.sum()
    shares = np.bincount(drawn, minlength=9) / n
    assert (abs(shares - p) <= 5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()
    assert p.max() > 0.2  # not a flat distribution, which any mistake would fit


def test_the_stop_token_is_kept_and_ends_its_row_only():
    net = model(CONFIG)
    asked = [[1], [2, 3], [4, 5, 6]]
    free = generate(net, asked, 10)
    stop = free[0][0]
    found = generate(net, asked, 10, stop=stop)
    assert found[0] == [stop]
    for row, other in zip(found, free, strict=True):
        assert row == (other[: other.index(stop) + 1] if stop in other else other)


def test_nothing_is_read_once_all_rows_have_stopped():
    net, read = model(CONFIG), []
    stop = generate(net, [[1]], 1)[0][0]
    original = net.read
    net.read = lambda *args, **how: read.append(1) or original(*args, **how)
    assert generate(net, [[1], [1]], 10, stop=stop) == [[stop], [stop]]
    assert len(read) == 1
    generate(net, [[1]], 4)
    assert len(read) == 1 + 4  # the last token is not read again


def test_generating_records_no_tape_and_needs_no_seed():
    net = model(CONFIG)
    assert all(p.requires_grad for p in net.parameters())
    seen, original = [], net.lm_head.forward
    net.lm_head.forward = lambda x: seen.append(x.node) or original(x)
    generate(net, [[1], [2, 3]], 3)
    assert seen == [None] * 3
    assert len(generate(net, [[1]], 3, temperature=1.0)[0]) == 3


def test_tokens_are_python_integers():
    written = generate(model(CONFIG), np.array([[1, 2], [3, 4]]), 3)
    assert isinstance(written, list) and all(type(t) is int for row in written for t in row)


# Bad input

BAD = [
    (dict(prompts=[]), "at least one prompt"),
    (dict(prompts=[[1], []]), "each with at least one token"),
    (dict(prompts=[1, 2]), r"such as \[\[1, 2\], \[3\]\], got \[1, 2\]"),
    (dict(prompts=5), "got 5"),
    (dict(prompts=[[1, [2]]]), "unequal lengths"),
    (dict(max_new=True), "max_new ≥ 1, got True"),
    (dict(max_new=0), "whole number max_new ≥ 1, got 0"),
    (dict(temperature=1.0, top_k=2.5), "whole number top_k ≥ 1, got 2.5"),
    (dict(temperature=-1.0), "temperature ≥ 0"),
    (dict(temperature=math.nan), "temperature ≥ 0"),
    (dict(temperature=math.inf), "temperature ≥ 0"),
    (dict(temperature="hot"), "temperature ≥ 0"),
    (dict(temperature=1.0, top_k=0), "top_k ≥ 1"),
    (dict(stop=9), r"stop is a token of the vocabulary \(0 … 8\), or several; got 9"),
    (dict(stop=-1), "stop is a token"),
    (dict(stop=[2, 9]), "stop is a token .*; got 9"),
    (dict(stop=True), "stop is a token .*; got True"),
    (dict(top_p=0.0), "0 < top_p ≤ 1, got 0.0"),
    (dict(top_p=1.5), "0 < top_p ≤ 1, got 1.5"),
    (dict(repetition_penalty=0), "repetition_penalty > 0, got 0"),
    (dict(max_new=2.5), "max_new ≥ 1, got 2.5"),
    (dict(prompts=[[9]]), "token id 9 is not in the vocabulary"),
    (dict(prompts=[[1], [2, -1]]), "token id -1 is not in the vocabulary"),
    (dict(prompts=[[0.5]]), "token ids are integers"),
    (dict(prompts=[[1] * 17], max_new=1), "17 slots are 1 more than the context of 16"),
    (dict(prompts=[[1] * 10], max_new=8), "17 slots are 1 more than the context of 16"),
]


@pytest.mark.parametrize("options, message", BAD)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        generate(model(CONFIG), **dict(prompts=[[1]]) | options)


def test_what_has_no_room_is_refused_before_it_is_written(monkeypatch):
    net, reads = model(CONFIG), []
    read = net.read
    monkeypatch.setattr(net, "read", lambda *a, **k: reads.append(a) or read(*a, **k))
    with pytest.raises(ValueError, match="lower max_new by 1, or shorten the prompts"):
        generate(net, [[1] * 10], 8)
    assert len(reads) == 1
    (token,) = greedy(net, [1] * 10, 1)
    assert generate(net, [[1] * 10], 8, stop=token) == [[token]]  # it may end before


def test_no_temperature_above_zero_is_too_low():
    net = model(CONFIG)
    assert generate(net, [[1, 2]], 5, temperature=5e-324, rng=0) == generate(net, [[1, 2]], 5)


def test_the_context_may_be_filled_to_the_last_slot():
    net = model(CONFIG)
    assert generate(net, [[1] * 10], 7) == [greedy(net, [1] * 10, 7)]  # the last is not read
    assert len(generate(net, [[1] * 16], 1)[0]) == 1


@pytest.mark.parametrize("method", [None, mp.Prefix(num_virtual_tokens=3)])
def test_a_key_in_the_cache_is_one_piece_of_memory(method):
    net = model(CONFIG)
    if method is not None:  # whose slots are one row's, seen from every row
        mp.attach(net, method)
    with mp.no_grad():
        _, cache = net.read([[1, 2], [3, 4], [5, 6]])
        for _ in range(2):
            for slots in (*cache.keys, *cache.values):
                assert slots.data.strides[-1] == slots.data.itemsize
            net.read([[1], [2], [3]], cache)


@pytest.mark.parametrize("method", [mp.Prefix(num_virtual_tokens=3), mp.Prompt(3)])
def test_virtual_tokens_take_part_in_writing(method):
    net = model(CONFIG)
    mp.attach(net, method, rng=1)
    for p in net.parameters():
        if p.requires_grad:
            p.data = xp.asarray(np.random.default_rng(0).standard_normal(p.shape))
    asked = [[1], [2, 3], [4, 5, 6]]
    found = generate(net, asked, 8)
    assert found == [greedy(net, prompt, 8) for prompt in asked]
    with mp.disabled(net):
        assert found != generate(net, asked, 8)
    with pytest.raises(
        ValueError, match="20 slots are 4 more than the context of 16; lower max_new"
    ):
        generate(net, [[1] * 10], 8)
    assert isinstance(net(asked[:1]), Tensor)
