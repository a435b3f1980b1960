"""Planted bugs: wrong versions of the real code, and the law that catches each.

    python tests/planted.py          prints the table

Each bug is a function that patches the package for a while. It must be caught by the law that it
names, on a method and a model that it names; a law that lets it pass is too weak.
"""

import contextlib
import sys
from dataclasses import dataclass
from unittest.mock import patch

from laws import LAWS, Case

import minipeft as mp
from minipeft import accumulate, autograd, checkpoint, functional, nn, optim, train, transformer
from minipeft.backend import np, xp
from minipeft.functional import IGNORE, linear
from minipeft.peft import adapter, attaching, base, lora, merging

SQUARE = dict(vocab=11, context=16, width=8, layers=2, heads=4, kv_heads=2, ffn=7, init_std=0.3)
GPT2 = mp.Config.gpt2(**SQUARE)
LLAMA = mp.Config.llama(**SQUARE)
DROPS = mp.LoRA(r=2, lora_alpha=3.0, lora_dropout=0.4, target_modules=("q_proj", "down_proj"))
LORA = mp.LoRA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))  # square weights
HOUSLBY = mp.Bottleneck(m=3, nonlinearity="gelu")
PREFIX, PROMPT = mp.Prefix(num_virtual_tokens=2), mp.Prompt(num_virtual_tokens=2)


@dataclass(frozen=True)
class Bug:
    """What is wrong, how to make it so, and the law, method and model that must notice."""

    what: str
    plant: object  # a context manager to enter
    law: int
    method: mp.peft.base.Method
    config: mp.Config = LLAMA

    def caught(self):
        """The complaint of the law about the bug, or None if it noticed nothing."""
        for seed in range(3):
            try:
                with self.plant():
                    LAWS[self.law](Case(self.config, self.method, seed))
            except (AssertionError, ValueError, RuntimeError) as complaint:
                return " ".join(str(complaint).split()) or type(complaint).__name__
        return None


BUGS = []


def bug(what, law, method, config=LLAMA):
    """Register a patching function as a Bug."""

    def register(plant):
        BUGS.append(Bug(what, contextlib.contextmanager(plant), law, method, config))
        return plant

    return register


def replaced(target, name, make):
    """Replace an attribute by make(original) for a while."""
    return patch.object(target, name, make(getattr(target, name)))


def simple(what, law, method, target, name, make, config=LLAMA):
    """Register a bug that is one replaced function."""

    def plant():
        with replaced(target, name, make):
            yield

    bug(what, law, method, config)(plant)


# --- methods

simple("LoRA: A and B swapped in the merge", 5, LORA, lora.LoRADelta, "merged",
       lambda old: lambda self, layer: {"weight": layer.weight.data + self.scaling
                                        * (self.lora_A.data.T @ self.lora_B.data.T)})  # fmt: skip
simple("LoRA: α/r missing in the forward pass", 5, LORA, lora.LoRADelta, "__call__",
       lambda old: lambda self, f, x: f(x) + linear(linear(x, self.lora_A), self.lora_B))  # fmt: skip
simple("LoRA: merged weight transposed", 5, LORA, lora.LoRADelta, "merged",
       lambda old: lambda self, layer: {"weight": old(self, layer)["weight"].T})  # fmt: skip
simple("LoRA: B does not start at zero", 1, LORA, lora.np, "zeros",
       lambda old: lambda shape: old(shape) + 0.01)  # fmt: skip
simple("LoRA: the count forgets B", 3, LORA, lora.LoRA, "count",
       lambda old: lambda self, config: old(self, config) // 2)  # fmt: skip
simple("LoRA: dropout also at evaluation", 11, DROPS, nn.Dropout, "forward",
       lambda old: lambda self, x: functional.dropout(x, self.p, DRAWS) if self.p else x)  # fmt: skip
simple("adapter: outside the residual, h lost", 1, HOUSLBY, adapter.BottleneckDelta, "__call__",
       lambda old: lambda self, f, *args: self.change(f(*args)))  # fmt: skip
simple("adapter: up-projection not zero at the start", 1, HOUSLBY, adapter.np, "zeros",
       lambda old: lambda shape: old(shape) + 0.01)  # fmt: skip
simple("prefix: positions of the tokens not shifted", 13, PREFIX, transformer.Cache, "extend",
       lambda old: lambda self, B, T, real, dtype: unshifted(old(self, B, T, real, dtype)))  # fmt: skip
simple("prefix: its keys rotated", 13, PREFIX, transformer.Cache, "behind",
       lambda old: lambda self, keys, values: old(self, [k * -1.0 for k in keys], values))  # fmt: skip
simple("prefix: keys and values swapped", 13, PREFIX, transformer.Cache, "behind",
       lambda old: lambda self, keys, values: old(self, values, keys))  # fmt: skip
simple("prompt: logits of the last tokens dropped, not of the prompt", 11, PROMPT,
       transformer.Transformer, "read",
       lambda old: lambda self, ids, cache=None, real=None: early(old(self, ids, cache, real)))  # fmt: skip

# --- attaching, merging, saving

DRAWS = np.random.default_rng(0)


def unshifted(positions_and_mask):
    positions, mask = positions_and_mask
    return positions - positions.min(), mask


def early(logits_and_cache):
    logits, cache = logits_and_cache
    return logits[:, ::-1], cache


@bug("attach does not freeze the base", 10, LORA)
def unfrozen():
    with patch.object(nn.Parameter, "requires_grad", property(
        lambda p: p.node is not None,
        lambda p, train: setattr(p, "node", p.node or autograd.Node(p.data.shape)),
    )):  # fmt: skip
        yield


@bug("two adapters share their parameters", 9, LORA)
def shared_state():
    first = {}

    def prepare(model, method, name="default", rng=0):
        adapter = original(model, method, name, rng)
        for path, delta in adapter.deltas.items():
            vars(delta).update(vars(first.setdefault((id(model), path), delta)))
        return adapter

    original = attaching.prepare
    with patch.object(attaching, "prepare", prepare):
        yield


@bug("unmerging subtracts in float32", 6, LORA)
def subtracting():
    def unmerge(receipt):
        for path, p in receipt.after.items():
            change = p.data - receipt.before[path].data
            receipt.before[path] = nn.Parameter(p.data - change * 1.0000001, False)
        return original(receipt)

    original = merging.unmerge
    with patch.object(mp, "unmerge", unmerge):
        yield


@bug("merging writes each weight as it goes", 7, LORA)
def half_applied():
    def check_merge(model, adapter, after):
        sites = dict(model.named_modules())
        for path, p in after.items():
            if not bool(xp.isfinite(p.data).all()):
                raise ValueError(f"{path} would be infinite or NaN")
            attaching.put(sites, {path: p})

    with patch.object(merging, "check_merge", check_merge):
        yield


@bug("merging forgets the last of its weights", 5, LORA)
def incomplete():
    def folded(model, adapter):
        after = original(model, adapter)
        after.popitem()
        return after

    original = merging.folded
    with patch.object(merging, "folded", folded):
        yield


@bug("detaching leaves a change at its site", 6, LORA)
def left_behind():
    def detach(model, name="default"):
        adapter = original(model, name)
        path, delta = next(iter(adapter.deltas.items()))
        dict(model.named_modules())[path].active.append((delta, None))
        return adapter

    original = attaching.detach
    with patch.object(mp, "detach", detach):
        yield


@bug("disabling keeps the copies of full fine-tuning", 6, mp.Full())
def not_restored():
    def put(modules, parameters):
        return original(modules, parameters) if any(
            p.requires_grad for p in parameters.values()
        ) else {}  # fmt: skip

    original = attaching.put
    with patch.object(attaching, "put", put):
        yield


@bug("full fine-tuning trains the base itself, not a copy", 2, mp.Full())
def no_copy():
    class Same(nn.Parameter):
        def __init__(self, values, requires_grad=True):
            super().__init__(values, requires_grad)
            self.data = values

    with patch.object(attaching, "Parameter", Same):
        yield


@bug("saving drops a tensor", 3, LORA)
def dropped():
    def saved(self):
        arrays = original(self)
        arrays.popitem()
        return arrays

    original = base.Adapter.saved
    with patch.object(base.Adapter, "saved", saved):
        yield


@bug("loading leaves the first tensor as it was drawn", 8, LORA)
def skipped():
    def read(path, like):
        arrays, about = original(path, like)
        first = next(iter(arrays))
        return arrays | {first: np.array(like[first])}, about

    original = checkpoint.read_arrays
    with patch.object(checkpoint, "read_arrays", read):
        yield


@bug("loading does not look at the base's fingerprint", 8, LORA)
def any_base():
    with patch.object(checkpoint, "fingerprint", lambda model: "0" * 64):
        yield


@bug("resuming forgets the optimiser's moments", 8, LORA)
def no_moments():
    def resume(self, path):
        original(self, path)
        for moment in (*self.optimizer.m, *self.optimizer.v):
            moment[...] = 0

    original = train.Run.resume
    with patch.object(train.Run, "resume", resume):
        yield


simple("rows of a batch: chosen and others mixed up", 15, LORA, nn.Site, "mix",
       lambda old: lambda self, rows, changed, plain: old(self, ~rows, changed, plain))  # fmt: skip

# --- the transformer

simple("causal mask off by one", 11, LORA, transformer, "causal",
       lambda old: lambda T, S, dtype: old(T, S + 1, dtype)[:, 1:] * 0 + np.triu(
           np.full((T, S), -1e30), k=S - T + 2).astype(dtype))  # fmt: skip
simple("causal mask aligned to the start", 12, LORA, transformer, "causal",
       lambda old: lambda T, S, dtype: np.triu(np.full((T, S), -1e30), k=1).astype(dtype))  # fmt: skip
simple("padding visible to attention", 11, LORA, transformer.Cache, "extend",
       lambda old: lambda self, B, T, real, dtype: old(self, B, T, None, dtype))  # fmt: skip
simple("cache: new keys before the old", 12, LORA, transformer, "concat",
       lambda old: lambda tensors, axis=0: old(tensors[::-1], axis=axis))  # fmt: skip
simple("RoPE: gradient turned the wrong way", 4, LORA, functional, "rope",
       lambda old: lambda x, cos, sin: autograd.record(
           old(autograd.value(x), cos, sin).data,
           (x, lambda g: old(g, cos, sin).data)))  # fmt: skip

# --- derivatives and training

simple("a shared operand's gradients overwrite each other", 4, mp.Full(), autograd, "gradients",
       lambda old: lambda loss, g=None: old(loss, g) | {LEAF: 0})  # fmt: skip
BUGS.pop()  # shown apart in tests/test_autograd.py: it needs the engine's inside
simple("GELU: slope one per cent off", 4, HOUSLBY, functional, "gelu",
       lambda old: lambda x: scaled_gradient(old, x, 1.01), GPT2)  # fmt: skip
LEAF = None


def scaled_gradient(op, x, factor):
    inner = nn.Parameter(autograd.value(x))
    y = op(inner)
    return autograd.record(y.data, (x, lambda g: autograd.gradients(y, g)[inner.node] * factor))


@bug("linear: gradient of the input transposed", 4, LORA)
def transposed():
    def wrong(x, w, b=None):
        y = original(x, w, b)
        if y.node is not None and x.shape[-1] == y.shape[-1]:
            weight = autograd.value(w)
            y.node.edges = [
                (source, (lambda g: g @ weight.T) if source is x.node else vjp)
                for source, vjp in y.node.edges
            ]
        return y

    original = functional.linear
    with patch.object(functional, "linear", wrong):
        yield


@bug("layer norm: the mean of the gradient not taken off", 4, HOUSLBY, GPT2)
def no_mean():
    def wrong(x, gain, bias, eps):
        y = original(x, gain, bias, eps)
        a = autograd.value(x)
        inv = 1.0 / np.sqrt(a.var(axis=-1, keepdims=True) + eps)
        return autograd.record(y.data, (x, lambda g: g * autograd.value(gain) * inv))

    original = functional.layer_norm
    with patch.object(functional, "layer_norm", wrong):
        yield


@bug("parts of a batch: their means summed", 14, LORA)
def mean_of_means():
    def wrong(logits, labels, count=None):
        return original(logits, labels, None)

    original = functional.cross_entropy
    with patch.object(functional, "cross_entropy", wrong):
        yield


@bug("loss counts padding", 11, LORA)
def padding_counted():
    def wrong(logits, labels, count=None):
        return original(logits, np.where(labels == IGNORE, 0, labels), count)

    original = functional.cross_entropy
    with patch.object(functional, "cross_entropy", wrong):
        yield


@bug("dropout: parts of a batch draw other masks", 14, DROPS)
def other_masks():
    class Wrong(nn.Noise):
        def __init__(self, seed, rows):
            super().__init__(seed, range(len(rows)))

    with patch.object(accumulate, "Noise", Wrong):
        yield


@bug("recomputing draws new dropout masks", 14, DROPS)
def new_masks():
    with patch("minipeft.recompute.same_noise", lambda f: f):
        yield


@bug("weight decay also on vectors", 16, HOUSLBY)
def vectors_decay():
    class All(optim.AdamW):
        def step(self, lr, scale=1.0):
            for p in self.parameters:
                if p.ndim == 1 and p.grad is not None:
                    p.data *= 1.0 - lr * self.weight_decay
            super().step(lr, scale)

    with patch.object(train, "AdamW", All):
        yield


@bug("AdamW: no bias correction", 16, LORA)
def uncorrected():
    class Slow(optim.AdamW):
        def step(self, lr, scale=1.0):
            super().step(lr * 0.1, scale)

    with patch.object(train, "AdamW", Slow):
        yield


def table():
    """The bugs and what caught them, in Markdown."""
    lines = ["| planted bug | caught by | its complaint |", "|---|---|---|"]
    for one in BUGS:
        law = LAWS[one.law].__name__[4:].replace("_", " ")
        lines.append(f"| {one.what} | {law} | {one.caught() or '**not caught**'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    sys.exit(any(one.caught() is None for one in BUGS))
