"""Training and evaluation: the update rule, the loop, stopping, going on, bad input."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.optimizer import AdamW, clip_scale, grad_norm, learning_rate
from minipeft.model.layers import Dropout
from minipeft.text.words import END, SEP, encode, examples_of
from minipeft.train.batch_gradient import micro_batch_gradient
from minipeft.train.data import Examples
from minipeft.train.fit import Settings
from minipeft.train.history import History
from strategies import batch, configs, model

SMALL = mp.Config.gpt2(vocab=9, context=8, width=8, layers=1, heads=2, init_std=0.2)


def examples(N=12, T=6, vocab=9, seed=0):
    """Random sequences, of which the last two or more tokens are to be learnt."""
    ids = np.random.default_rng(seed).integers(0, vocab, (N, T + 1))
    labels = ids[:, 1:].copy()
    labels[:, :3] = IGNORE
    labels[::2, 3] = IGNORE
    return Examples(ids[:, :-1], labels)


def weights(net):
    """All parameters in one vector."""
    return np.concatenate([to_numpy(p.data).ravel() for p in net.parameters()])


# The loop


def test_fit_learns_a_small_task_by_heart():
    net, data = mp.Transformer(SMALL, 0), examples(N=6)
    before = mp.evaluate(net, data)
    history = mp.fit(net, data, steps=120, batch_size=6, lr=0.03)
    after = mp.evaluate(net, data)
    assert before.exact < 0.5 and after.exact == 1.0
    assert before.loss > 1.5 and after.loss < 0.05
    assert history.loss[0] == pytest.approx(before.loss, rel=1e-5)
    assert len(history.loss) == 120 and history.stopped == ""
    assert all(p.grad is None for p in net.parameters())


def test_a_run_is_the_rule_step_by_step_and_the_history_tells_it():
    data, seed, how = examples(N=4), 3, dict(betas=(0.8, 0.9), weight_decay=0.1)
    with mp.dtype("float64"):
        net, twin = (mp.Transformer(SMALL, 0) for _ in range(2))
    net.ln_f.bias.grad = xp.full(8, 1e9)  # of something before, and forgotten
    history = mp.fit(net, data, 9, 3, 0.1, seed=seed, until=5, warmup=4, clip=0.01, **how)
    rule = AdamW(twin.parameters(), **how)
    for step in range(5):
        loss = twin.loss(*data.batch(step, 3, seed))
        loss.backward()
        norm, lr = grad_norm(twin.parameters()), learning_rate(step, 9, 0.1, warmup=4)
        rule.step(lr, clip_scale(norm, 0.01))
        twin.zero_grad()
        told = history.loss[step], history.norm[step], history.lr[step]
        assert told == pytest.approx((loss.item(), norm, lr), rel=1e-9)
        assert norm > 0.01 and history.seconds[step] > 0
    np.testing.assert_allclose(weights(net), weights(twin), rtol=1e-7, atol=1e-9)


def test_every_step_and_every_seed_drops_something_else():
    one = Examples([[1, 2, 3]], [[4, 5, 6]])
    how = dict(steps=4, batch_size=1, lr=1e-12)
    wet = SMALL.with_(dropout=0.5)
    losses = [mp.fit(mp.Transformer(wet, 0), one, seed=s, **how).loss for s in (0, 1)]
    assert len(set(losses[0] + losses[1])) == 8
    assert len(set(mp.fit(mp.Transformer(SMALL, 0), one, **how).loss)) == 1


def test_fit_trains_what_is_trainable_and_nothing_else():
    net = mp.Transformer(SMALL, 0)
    for p in net.parameters():
        p.requires_grad = p is net.blocks[0].mlp.up_proj.weight
    before = {path: p.data.copy() for path, p in net.named_parameters()}
    mp.fit(net, examples(), steps=3, batch_size=4)
    changed = {path for path, p in net.named_parameters() if (p.data != before[path]).any()}
    assert changed == {"blocks.0.mlp.up_proj.weight"}


@pytest.mark.parametrize("options", [{}, {"accumulate": 3}, {"workers": 2}])
def test_the_same_seed_gives_the_same_bits(options):
    config = SMALL.with_(dropout=0.2)

    def run(seed):
        net = mp.Transformer(config, 0)
        history = mp.fit(net, examples(), steps=6, batch_size=5, seed=seed, **options)
        return weights(net), history.loss

    (one, losses), (two, again), (other, _) = run(1), run(1), run(2)
    assert (one == two).all() and losses == again
    assert (one != other).any()


@pytest.mark.parametrize("name", ["full", "bitfit", "lora", "lora+", "galore", "adapter"])
def test_a_parameter_of_an_adapter_that_is_frozen_stays(name):
    net = mp.load_base()
    adapter = mp.attach(net, mp.METHODS[name](), rng=0)
    frozen, *others = adapter.parameters()
    frozen.requires_grad = False
    before = [to_numpy(p.data).copy() for p in (frozen, *others)]
    mp.fit(net, mp.Task("gerund"), steps=2, lr=0.01, label=None)
    changed = [
        (to_numpy(p.data) != b).any() for p, b in zip((frozen, *others), before, strict=True)
    ]
    assert not changed[0] and any(changed[1:])


def test_dropout_is_for_training_only():
    data = examples()
    wet = mp.Transformer(SMALL.with_(dropout=0.5), 0)
    dry = mp.Transformer(SMALL, 0)
    assert mp.evaluate(wet, data) == mp.evaluate(dry, data)
    assert mp.generate(wet, [[1, 2]], 4) == mp.generate(dry, [[1, 2]], 4)
    histories = [mp.fit(net, data, steps=2, batch_size=12) for net in (wet, dry)]
    assert histories[0].loss != histories[1].loss
    ids = data.ids[:2]
    with wet.training(np.random.default_rng(0)):
        noisy = to_numpy(wet(ids).data)
    assert (noisy != to_numpy(wet(ids).data)).any()
    assert (to_numpy(wet(ids).data) == to_numpy(wet(ids).data)).all()


def test_dropping_everything_is_refused_and_an_error_ends_the_training():
    for p in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"a dropout probability lies in \[0, 1\), got"):
            Dropout(p)
    wet, ids = mp.Transformer(SMALL.with_(dropout=0.5), 0), examples().ids
    before = to_numpy(wet(ids).data)
    with pytest.raises(KeyError), wet.training(np.random.default_rng(0)):
        raise KeyError
    assert (to_numpy(wet(ids).data) == before).all()


# Batches


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 5), st.integers(0, 99))
def test_batches_cover_every_epoch(N, size, epoch, seed):
    data = Examples(np.arange(N)[:, None], np.arange(N)[:, None])
    steps = range(epoch * N // size, -(-(epoch + 1) * N // size))
    rows = np.concatenate([data.batch(step, size, seed)[0].ravel() for step in steps])
    start = epoch * N - steps[0] * size
    assert sorted(rows[start : start + N]) == list(range(N))
    ids, labels = data.batch(steps[0], size, seed)
    assert ids.shape == labels.shape == (size, 1) and (ids == labels).all()


def test_orders_differ_between_epochs_and_seeds():
    data = Examples(np.arange(20)[:, None], np.arange(20)[:, None])
    orders = [data.batch(step, 20, seed)[0].ravel().tolist() for step, seed in
              ((0, 0), (1, 0), (0, 1))]  # fmt: skip
    assert len(set(map(tuple, orders))) == 3
    assert data.batch(1, 20, 0)[0].ravel().tolist() == orders[1]


# Evaluation


@given(configs(), st.integers(1, 9), st.integers(0, 99))
def test_a_score_is_a_mean_over_tokens_and_over_rows(config, size, seed):
    net, rng = model(config), np.random.default_rng(seed)
    ids, labels = batch(config, B=8, T=3, seed=seed)
    labels[rng.random(labels.shape) < 0.5] = IGNORE
    labels[0, 0] = 0
    score = mp.evaluate(net, Examples(ids, labels), size)
    assert score.loss == pytest.approx(net.loss(ids, labels).item(), rel=1e-9)
    best = to_numpy(net(ids).data).argmax(axis=-1)
    rows = [all(b == y for b, y in zip(*row, strict=True) if y != IGNORE)
            for row in zip(best, labels, strict=True) if any(row[1] != IGNORE)]  # fmt: skip
    assert score.exact == np.mean(rows)


def test_evaluating_records_no_tape():
    net, seen = mp.Transformer(SMALL, 0), []
    original = net.lm_head.forward
    net.lm_head.forward = lambda x: seen.append(x.node) or original(x)
    mp.evaluate(net, examples(N=12), batch_size=5)
    assert seen == [None] * 3


@pytest.mark.parametrize("task", ["past", "comparative", "reverse", "gerund"])
def test_exact_match_is_that_of_greedy_writing(task):
    net, pairs = mp.load_base(), mp.Task(task).pairs("test")[::9]
    asked = [encode(task, lemma) for lemma, _ in pairs]
    answers = [encode(task, *pair)[len(ids) :] for pair, ids in zip(pairs, asked, strict=True)]
    assert asked[0][-1] == SEP and answers[0][-1] == END
    written = mp.generate(net, asked, max(map(len, answers)), stop=END)
    same = np.mean([one == other for one, other in zip(written, answers, strict=True)])
    found = mp.evaluate(net, examples_of([(task, *pair) for pair in pairs]))
    assert found.exact == same
    assert (found.exact > 0.8) == (task != "gerund")


def test_a_history_is_told_in_a_line_and_drawn():
    history = mp.fit(mp.Transformer(SMALL, 0), examples(), steps=3)
    assert repr(history) == f"History(3 steps, last loss {history.loss[-1]:.4f} nats)"
    assert repr(History()) == "History(0 steps)"
    history.stopped = "interrupted after step 3 of 9"
    assert "interrupted after step 3 of 9" in repr(history)
    pytest.importorskip("matplotlib").use("Agg")
    axes = history.plot()
    (line,) = axes.get_lines()[:1]
    np.testing.assert_allclose(line.get_ydata(), history.loss)
    assert "nats" in axes.get_ylabel()
    assert history.plot(axes) is axes


# Bad input

NOT_POSITIVE = [0, 0.0, -1.0, math.nan, math.inf, "0.1"]
NOT_BETAS = [(0.9, 1.0), (-0.1, 0.9), 0.9, (0.9,), (0.9, 0.9, 0.9), (0.9, "a"), None]
BAD_SETTINGS = [
    (dict(steps=0), "steps must be a whole number ≥ 1, got 0"),
    (dict(steps=2.5), "steps must be a whole number ≥ 1, got 2.5"),
    (dict(batch_size=0), "batch_size must be a whole number ≥ 1"),
    (dict(accumulate=-1), "accumulate must be a whole number ≥ 1"),
    (dict(workers="2"), "workers must be a whole number ≥ 1, got '2'"),
    (dict(steps=True), "steps must be a whole number ≥ 1, got True"),
    *((dict(lr=lr), f"lr must be a finite number > 0, got {lr!r}") for lr in NOT_POSITIVE),
    *(
        (dict(clip=c), f"clip must be a finite number > 0 or None, got {c!r}")
        for c in NOT_POSITIVE
    ),
    *((dict(betas=b), r"betas must be two finite numbers in \[0, 1\), got") for b in NOT_BETAS),
    *((dict(warmup=n), "warmup must be a whole number ≥ 0, got") for n in (-1, 1.5, "2")),
    *((dict(seed=n), "seed must be a whole number ≥ 0, got") for n in (-1, 1.5, "a")),
    *((dict(save_every=n), "save_every must be a whole number ≥ 1") for n in (0, -1, 2.5)),
    *((dict(until=n), "until must be a whole number ≥ 0") for n in (-1, 2.5, "x")),
    (dict(recompute="no"), "recompute must be True or False, got 'no'"),
    (dict(lr=True), "lr must be a finite number > 0, got True"),
    (dict(weight_decay=-0.1), "weight_decay must be a finite number ≥ 0, got -0.1"),
    (dict(weight_decay=math.nan), "weight_decay must be a finite number ≥ 0, got nan"),
    (dict(weigth_decay=0.1), "option of fit 'weigth_decay'; did you mean 'weight_decay'"),
    (dict(warm_up=3), "did you mean 'warmup'"),
    (dict(quantum=1), "unknown option of fit 'quantum'. There are: steps, batch_size, lr"),
]


@pytest.mark.parametrize("options, message", BAD_SETTINGS)
def test_bad_settings_change_nothing(options, message):
    net = mp.Transformer(SMALL, 0)
    before = weights(net)
    with pytest.raises(ValueError, match=message):
        mp.fit(net, examples(), **options)
    assert (weights(net) == before).all()


def test_numbers_of_numpy_are_numbers():
    how = dict(steps=np.int64(2), batch_size=np.int32(3), lr=np.float32(0.5), seed=np.uint8(1))
    settings = Settings(**how)
    assert vars(settings) == vars(Settings(2, 3, 0.5, seed=1))
    assert all(type(value) in (int, float, bool, tuple) for value in vars(settings).values())


@pytest.mark.parametrize("where", ["accumulate", "step"])
def test_an_error_leaves_no_gradient(where, monkeypatch):
    net = mp.Transformer(SMALL, 0)

    parts = []

    def fail(*_, **__):
        raise RuntimeError("stop")

    def read_one(*args):
        parts.append(args)
        return micro_batch_gradient(*args) if len(parts) == 1 else fail()

    if where == "step":
        monkeypatch.setattr("minipeft.engine.optimizer.AdamW.step", fail)
    else:  # in the second part of a batch
        monkeypatch.setattr("minipeft.train.fit.micro_batch_gradient", read_one)
    with pytest.raises(RuntimeError, match="stop"):
        mp.fit(net, examples(), steps=1, accumulate=2)
    assert all(p.grad is None for p in net.parameters())
    assert len(parts) == (0 if where == "step" else 2)


def test_a_model_in_which_nothing_trains_is_refused():
    net = mp.Transformer(SMALL, 0)
    mp.attach(net, mp.LoRA(r=1))
    mp.use(net, None)
    with pytest.raises(ValueError, match="nothing trains in this model; attach a method"):
        mp.fit(net, examples())


def test_settings_have_the_defaults_that_the_text_tells():
    settings = Settings(300, 32, 1e-3)
    assert (settings.warmup, settings.clip, settings.betas) == (20, 1.0, (0.9, 0.999))
