"""A run that stops, by wish or by a loss that is not finite, and one that goes on."""

import math
import os
import signal
import threading

import pytest

import minipeft as mp
from laws.failing import count_lines, interrupted
from minipeft.engine.backend import np, xp
from minipeft.train import fit
from minipeft.train.fit import Run, Settings
from test_train import SMALL, examples, weights


@pytest.fixture(autouse=True)
def heard():
    """Python's own answer to Ctrl-C, which a shell takes from what it starts with `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Watched:
    """Examples that call a function before the batch of a step is taken."""

    def __init__(self, data, at, call):
        self.data, self.at, self.call = data, at, call
        self.ids, self.labels = data.ids, data.labels

    def __len__(self):
        return len(self.data)

    def batch(self, step, size, seed):
        if step == self.at:
            self.call()
        return self.data.batch(step, size, seed)


@pytest.mark.parametrize("method", [None, mp.LoRA(r=2, lora_dropout=0.3), mp.Prompt(2)])
@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_run_resumed_from_its_checkpoint_ends_in_the_same_bits(tmp_path, method, stop):
    def run(**how):
        net = mp.Transformer(SMALL.with_(dropout=0.2), 0)
        if method is not None:
            mp.attach(net, method)
        return net, mp.fit(net, examples(), steps=9, batch_size=5, warmup=3, **how)

    whole, history = run()
    how = dict(checkpoint=tmp_path / "run.safetensors", save_every=2)
    _, first = run(until=stop, **how)
    assert len(first.loss) == stop
    net, second = run(**how)
    assert (weights(net) == weights(whole)).all()
    assert second.loss == history.loss and second.norm == history.norm
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]
    done, third = run(**how)  # nothing is left to do
    assert (weights(done) == weights(whole)).all() and third.loss == history.loss


def interrupt():
    """Ctrl-C, as the terminal sends it while another thread runs."""
    thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
    thread.start()
    thread.join()


def test_ctrl_c_stops_after_the_step_at_hand_and_keeps_what_was_learnt(tmp_path):
    how = dict(steps=8, batch_size=5, checkpoint=tmp_path / "run.safetensors")
    net, before = mp.Transformer(SMALL, 0), signal.getsignal(signal.SIGINT)
    history = mp.fit(net, Watched(examples(), 3, interrupt), **how)
    assert history.stopped == "interrupted after step 4 of 8" and len(history.loss) == 4
    assert signal.getsignal(signal.SIGINT) is before
    twin, whole = mp.Transformer(SMALL, 0), mp.Transformer(SMALL, 0)
    mp.fit(twin, examples(), steps=8, batch_size=5, until=4)
    assert (weights(net) == weights(twin)).all()
    mp.fit(whole, examples(), steps=8, batch_size=5)
    fresh = mp.Transformer(SMALL, 0)
    history = mp.fit(fresh, examples(), **how)  # goes on from the file
    assert (weights(fresh) == weights(whole)).all()
    assert history.stopped == "" and len(history.loss) == 8


def test_ctrl_c_in_the_last_step_changes_nothing():
    history = mp.fit(mp.Transformer(SMALL, 0), Watched(examples(), 2, interrupt), steps=3)
    assert history.stopped == "" and len(history.loss) == 3


def test_a_run_ends_with_its_last_step():
    history = mp.fit(mp.Transformer(SMALL, 0), examples(), steps=3, until=9)
    assert len(history.loss) == 3


def test_a_checkpoint_that_cannot_be_written_is_heard_of_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in ("file/run.safetensors", "folder"):
        net = mp.Transformer(SMALL, 0)
        before = weights(net)
        with pytest.raises(OSError, match=f"{place} cannot be written"):
            mp.fit(net, examples(), steps=3, checkpoint=tmp_path / place)
        assert (weights(net) == before).all()


def test_a_second_ctrl_c_does_not_wait():
    def twice():
        interrupt()
        interrupt()

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        mp.fit(mp.Transformer(SMALL, 0), Watched(examples(), 1, twice), steps=5)
    assert signal.getsignal(signal.SIGINT) is before


def test_fit_works_outside_the_main_thread():
    net, twin = (mp.Transformer(SMALL, 0) for _ in range(2))
    how = dict(steps=2, batch_size=4)
    thread = threading.Thread(target=mp.fit, args=(net, examples()), kwargs=how)
    thread.start()
    thread.join()
    mp.fit(twin, examples(), **how)
    assert (weights(net) == weights(twin)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_weights(tmp_path, bad):
    net = mp.Transformer(SMALL, 0)
    how = dict(steps=9, batch_size=4, checkpoint=tmp_path / "run.safetensors", save_every=2)

    def spoil():
        net.ln_f.weight.data[...] = bad

    with np.errstate(all="ignore"), pytest.raises(FloatingPointError) as error:
        mp.fit(net, Watched(examples(), 5, spoil), **how)
    assert "at step 5" in str(error.value) and "nan" in str(error.value)
    assert "lower learning rate" in str(error.value)
    assert how["checkpoint"].exists()
    good = mp.Transformer(SMALL, 0)
    mp.fit(good, examples(), steps=9, batch_size=4, until=4)  # what step 4 started from
    assert (weights(net) == weights(good)).all()
    assert math.isfinite(mp.evaluate(net, examples()).loss)
    assert all(p.grad is None for p in net.parameters())
    again, whole = mp.Transformer(SMALL, 0), mp.Transformer(SMALL, 0)
    mp.fit(again, examples(), **how)  # the checkpoint of step 4 is good, too
    mp.fit(whole, examples(), steps=9, batch_size=4)
    assert (weights(again) == weights(whole)).all()


def test_too_high_a_learning_rate_is_heard_of():
    net = mp.Transformer(SMALL, 0)
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"at step [1-9]"):
        mp.fit(net, examples(), steps=50, lr=1e30, clip=None, warmup=0)
    assert np.isfinite(weights(net)).all()


def test_a_gradient_that_is_not_finite_keeps_the_weights(monkeypatch):
    net, twin = mp.Transformer(SMALL, 0), mp.Transformer(SMALL, 0)
    norms = iter([1.0, 1.0, 1.0, math.inf])
    monkeypatch.setattr("minipeft.train.fit.grad_norm", lambda parameters: next(norms))
    with pytest.raises(FloatingPointError, match="norm inf at step 3"):
        mp.fit(net, examples(), steps=9, clip=None)
    monkeypatch.undo()
    mp.fit(twin, examples(), steps=9, until=3, clip=None)
    assert (weights(net) == weights(twin)).all()  # their loss was finite


def test_a_resumed_run_knows_the_last_good_weights(tmp_path):
    how = dict(steps=9, checkpoint=tmp_path / "run.safetensors")
    mp.fit(mp.Transformer(SMALL, 0), examples(), until=4, **how)
    net, good = mp.Transformer(SMALL, 0), mp.Transformer(SMALL, 0)

    def spoil():
        net.ln_f.weight.data[...] = math.nan

    with pytest.raises(FloatingPointError, match="at step 4"):
        mp.fit(net, Watched(examples(), 4, spoil), **how)
    mp.fit(good, examples(), steps=9, until=3)
    assert (weights(net) == weights(good)).all()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    path, how = tmp_path / "run.safetensors", dict(steps=4, batch_size=4, until=2)
    mp.fit(mp.Transformer(SMALL, 0), examples(), checkpoint=path, **how)
    content = path.read_bytes()
    for options, data, message in (
        (dict(lr=0.5), examples(), "lr is 0.001 there and 0.5 here"),
        (dict(seed=1), examples(), "seed is 0 there and 1 here"),
        (dict(betas=(0.5, 0.9)), examples(), "betas.0 is 0.9 there and 0.5 here"),
        ({}, examples(N=13), "data.examples is 12 there and 13 here"),
    ):
        net = mp.Transformer(SMALL, 0)
        before = weights(net)
        with pytest.raises(ValueError, match=message):
            mp.fit(net, data, checkpoint=path, **how | options)
        assert (weights(net) == before).all() and path.read_bytes() == content
    other = mp.Transformer(SMALL.with_(width=10), 0)
    with pytest.raises(ValueError, match=r"base\.config\.width is"):
        mp.fit(other, examples(), checkpoint=path, **how)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"run.safetensors is not a whole safetensors file"):
        mp.fit(mp.Transformer(SMALL, 0), examples(), checkpoint=path, **how)


def test_a_checkpoint_with_one_wrong_bit_is_refused_and_nothing_is_half_applied(tmp_path):
    path, how = tmp_path / "run.safetensors", dict(steps=9, batch_size=4, lr=1e-3)
    mp.fit(mp.Transformer(SMALL, 0), examples(), until=2, checkpoint=path, **how)
    run = Run(mp.Transformer(SMALL, 0), examples(), Settings(**how))
    before, content = weights(run.model), path.read_bytes()
    name = content.index(b"sha256")  # without its name it is no checksum, and all else is right
    for place in {*range(0, len(content), 97)} - {*range(name, name + 6)}:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.safetensors"):
            run.resume(path)
        assert run.done == 0 and (weights(run.model) == before).all()
    path.write_bytes(content)
    run.resume(path)
    assert run.done == 2 and (weights(run.model) != before).any()


class Momentum:
    """Heavy-ball gradient descent, an optimiser that a method may bring: v ← β v + g."""

    def __init__(self, parameters, betas, weight_decay):
        self.parameters, self.beta, self.steps = list(parameters), betas[0], 0
        self.v = [xp.zeros_like(p.data) for p in self.parameters]

    @property
    def state(self):
        return {"velocity": self.v}

    def step(self, lr, scale=1.0, before=None):
        self.steps += 1
        for i, p in enumerate(self.parameters):
            before[i][...] = p.data
            if p.grad is not None:
                self.v[i] *= self.beta
                self.v[i] += p.grad * scale
                p.data -= lr * self.v[i]


class WithMomentum(mp.LoRA):
    """LoRA that is trained by its own optimiser."""

    def make_optimizer(self, adapter, betas, weight_decay):
        return Momentum(adapter.parameters(), betas, weight_decay)


def test_a_method_may_bring_its_own_optimiser(tmp_path):
    def run(**how):
        net = mp.Transformer(SMALL, 0)
        mp.attach(net, WithMomentum(r=2), "own")
        mp.attach(net, mp.Bottleneck(m=2), "adamws")
        mp.use(net, ["own", "adamws"])
        return net, mp.fit(net, examples(), steps=9, batch_size=5, warmup=3, **how)

    whole, history = run()
    how = dict(checkpoint=tmp_path / "run.safetensors", save_every=2)
    run(until=5, **how)
    resumed, second = run(**how)
    assert (weights(resumed) == weights(whole)).all() and second.loss == history.loss

    net = mp.Transformer(SMALL, 0)
    mp.attach(net, WithMomentum(r=2))
    state = Run(net, examples(), Settings(4, 5, 0.1)).state()
    assert {name.split("/")[0] for name in state} == {"weights", "good", "velocity"}


@pytest.mark.parametrize(
    "method", [mp.LoRA(r=2), mp.AdaLoRA(init_r=2, target_r=1), mp.Full(), mp.GaLore(r=2)]
)
def test_an_interrupted_step_leaves_every_weight(method):
    """At any line, also of an update, and also where memory is refused."""

    def start():
        net = mp.Transformer(SMALL, 0)
        mp.attach(net, method)
        run = Run(net, examples(), Settings(9, 4, 0.01))
        run.step()
        return run, net

    run, net = start()
    before = weights(net)
    lines = count_lines(run.step)
    after = weights(net)
    assert (after != before).any()
    for line in range(1, lines + 1, max(1, lines // 60)):
        run, net = start()
        assert interrupted(run.step, line)
        found = weights(net)
        assert (found == before).all() or (found == after).all(), f"line {line} of {lines}"


def test_slow_steps_are_saved_more_often_and_slow_saves_less(tmp_path, monkeypatch):
    net = mp.Transformer(SMALL, 0)
    run, now = Run(net, examples(), Settings(200, 4, 1e-3)), [0.0]
    monkeypatch.setattr(fit.time, "monotonic", lambda: now[0])
    run.saved, due = 0.0, []
    for step in range(1, 200):
        now[0] += 0.5
        run.optimizers[0].steps = step
        if run.is_due(70):
            due.append(step)
            run.saved, run.saving = now[0], 1.0
    assert due == [20, 60, 70, 110, 140, 180]
    monkeypatch.undo()
    monkeypatch.setattr(fit, "SAVE_AFTER", 0)
    kept = []
    monkeypatch.setattr(Run, "save", lambda self, path: kept.append(self.done))
    mp.fit(net, examples(), 4, 4, checkpoint=tmp_path / "run.safetensors", label=None)
    assert kept == [1, 2, 3, 4, 4]
