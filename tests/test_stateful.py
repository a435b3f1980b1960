"""Several adapters on one model, in any order of attaching, training, merging, saving and so on.

A hypothesis machine does what a user may do and keeps a simple account beside it: the base's
bytes, each adapter's numbers, and what is in use. After every step a fresh model that is set up
from that account alone must give the same logits, bit for bit.
"""

import tempfile
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from strategies import batch, model

import minipeft as mp
from minipeft.autograd import no_grad
from minipeft.backend import np, to_numpy
from minipeft.peft import attaching
from minipeft.peft.base import base_parameters
from minipeft.train import Run, Settings

SIZES = dict(vocab=7, context=24, layers=2, heads=2, kv_heads=1, ffn=5, init_std=0.3)
CONFIGS = [mp.Config.gpt2(width=6, **SIZES), mp.Config.llama(width=8, **SIZES, tied=True)]
METHODS = [
    mp.LoRA(r=1, target_modules="all-linear"),
    mp.LoRA(r=1, lora_alpha=3.0, target_modules=("q_proj", "up_proj")),
    mp.Full(),
    mp.Bottleneck(m=2),
    mp.Parallel(m=2),
    mp.Prefix(num_virtual_tokens=2),
    mp.Prefix(num_virtual_tokens=1, prefix_projection=True, encoder_hidden_size=2),
    mp.Prompt(num_virtual_tokens=2),
    mp.PTuning(num_virtual_tokens=1),
    mp.LlamaAdapter(adapter_len=2),
]
ROWS = 3


def copied(named):
    """{path: a copy of the array} of (path, Parameter) pairs."""
    return {path: to_numpy(p.data).copy() for path, p in named}


def equal(found, wanted):
    """Whether two {path: array} hold the same bits."""
    return found.keys() == wanted.keys() and all(
        (found[path] == wanted[path]).all() for path in found
    )


class Workbench(RuleBasedStateMachine):
    """A model with adapters, and the account of what it must be."""

    @initialize(config=st.sampled_from(CONFIGS), seed=st.integers(0, 9))
    def start(self, config, seed):
        self.config, self.seed, self.draws = config, seed, 0
        self.net = model(config, seed)
        self.ids, self.labels = batch(config, ROWS, 4, seed)
        self.base = [copied(self.net.named_parameters())]  # before each merge, and now
        self.there = {}  # {name: (method, {path: array})}
        self.used = {}  # {name: rows that see it, or None for all}
        self.merged = []  # (receipt, (method, {path: array}), whether it was in use)
        self.files = []  # (folder, logits of what was saved there, the base then)
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    # what a user may do

    @rule(data=st.data(), method=st.sampled_from(METHODS))
    def attach(self, data, method):
        name = data.draw(st.sampled_from("abcd"))
        if name in self.there:
            self.refused(lambda: mp.attach(self.net, method, name))
            return
        adapter = mp.attach(self.net, method, name, rng=self.fresh())
        self.there[name] = method, copied(adapter.named_parameters())
        self.used = {name: None}

    @precondition(lambda self: self.used)
    @rule(really=st.booleans())
    def train(self, really):
        if really:
            run = Run(self.net, self, Settings(steps=5, batch_size=ROWS, lr=0.05, warmup=1))
            run.step()
        rng = np.random.default_rng(self.fresh())
        for name in self.used:
            adapter = mp.adapters(self.net)[name]
            for p in adapter.parameters():
                if not really:
                    p.data += 0.2 * rng.standard_normal(p.shape)
            method, before = self.there[name]
            now = copied(adapter.named_parameters())
            assert not equal(now, before), "training changed nothing"
            self.there[name] = method, now

    @precondition(lambda self: self.there)
    @rule(data=st.data(), how=st.sampled_from(["none", "several", "rows"]))
    def use(self, data, how):
        names = st.sampled_from(sorted(self.there))
        if how == "none":
            wanted, ask = {}, lambda: mp.use(self.net, None)
        elif how == "several":
            chosen = data.draw(st.lists(names, min_size=1, max_size=3, unique=True))
            wanted = dict.fromkeys(chosen)
            given = chosen[0] if len(chosen) == 1 else chosen
            ask = lambda: mp.use(self.net, given)  # noqa: E731
        else:
            rows = data.draw(st.lists(names | st.none(), min_size=ROWS, max_size=ROWS))
            kinds = dict.fromkeys(row for row in rows if row)
            wanted = {name: np.array([row == name for row in rows]) for name in kinds}
            ask = lambda: mp.use(self.net, rows=rows)  # noqa: E731
        if self.clashing(wanted):
            self.refused(ask)
            return
        ask()
        self.used = wanted

    @rule()
    def disabled(self):
        with mp.disabled(self.net):
            assert (self.logits(self.net) == self.expected({})).all()

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def detach(self, data):
        name = data.draw(st.sampled_from(sorted(self.there)))
        mp.detach(self.net, name)
        del self.there[name]
        self.used.pop(name, None)

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def merge(self, data):
        name = data.draw(st.sampled_from(sorted(self.there)))
        method, arrays = self.there[name]
        others = [other for other, _ in self.there.values()]
        others.remove(method)
        if not method.folds or mp.Full() in others:
            self.refused(lambda: mp.merge(self.net, name))
            return
        attached = self.expected({name: None})
        receipt = mp.merge(self.net, name)
        self.base.append(copied(base_parameters(self.net)))
        self.merged.append((receipt, self.there.pop(name), name in self.used and name))
        rows = self.used.pop(name, None)
        self.merged[-1] += (name, rows)
        error = np.abs(self.expected({}) - attached).max()
        assert error <= 1e-11 * np.abs(attached).max(), f"merging changed logits by {error}"
