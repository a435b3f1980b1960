"""How a method is held to its equation, which its spec restates in plain NumPy from its paper.

One class for each place that a change may have, and what its equation is a function of. Each
has `check(case, net, adapter)`, which raises AssertionError where the adapter computes anything
else. In an equation `method` is the instance, and `a` has the arrays of one change by name.
"""

from collections.abc import Callable
from dataclasses import dataclass

import minipeft as mp
import reference
from laws.case import close, logits, same, shake
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.tensor import Tensor, no_grad, value
from minipeft.model.layers import Embedding
from minipeft.peft.base import base_parameters
from minipeft.peft.data_start import start_from_data
from minipeft.peft.targets import matrices, weight

PHI = {  # nonlinearities in NumPy
    "relu": lambda h: np.maximum(h, 0.0),
    "gelu": lambda h: 0.5 * h * (1 + np.tanh((2 / np.pi) ** 0.5 * (h + 0.044715 * h**3))),
    "silu": lambda h: h / (1 + np.exp(-h)),
    "identity": lambda h: h,
}


class Arrays:
    """The arrays of a change, and of what it shares with others, by their names; its path."""

    def __init__(self, path, delta):
        self.path = path
        for name, part in vars(delta).items():
            part = getattr(part, "data", part)
            if hasattr(part, "shape"):
                setattr(self, name, to_numpy(part))


def changes(adapter):
    """(path, Delta, Arrays) of each change of an adapter; copies may train beside them."""
    assert adapter.deltas
    return [(path, delta, Arrays(path, delta)) for path, delta in adapter.deltas.items()]


@dataclass(frozen=True)
class OnMatrix:
    """A change of Linears, the head or the table: the weight and bias that compute the same.

    weight: (method, a, W) -> W', with W (out, in), of a table (V, D).
    bias: (method, a, b) -> b'.  rank: method -> the largest rank of W' − W, if it has a bound.
    """

    weight: Callable
    bias: Callable = lambda method, a, b: b
    rank: Callable | None = None

    def check(self, case, net, adapter):
        modules, rng = dict(net.named_modules()), np.random.default_rng(case.seed)
        for path, delta, arrays in changes(adapter):
            site, w = modules[path], to_numpy(weight(modules[path]).data)
            wanted = self.weight(case.method, arrays, w)
            if self.rank is not None:
                rank = np.linalg.matrix_rank(wanted - w, tol=1e-9)
                assert rank <= self.rank(case.method), f"a change of rank {rank}"
            if isinstance(site, Embedding):
                x = rng.integers(0, len(w), (2, 3))
                y = wanted[x]
            else:
                x = rng.standard_normal((2, 3, w.shape[1]))
                y = x @ wanted.T
                if getattr(site, "bias", None) is not None:
                    y = y + self.bias(case.method, arrays, to_numpy(site.bias.data))
            agrees(site(xp.asarray(x)), y, delta, path)


@dataclass(frozen=True)
class StartedOnMatrix(OnMatrix):
    """The same of a method that starts from data: its start, too, is what its paper says.

    start: (method, a, W, X, G) -> None, or AssertionError. X (n, in) is what the module reads
    at the labelled tokens, and G (out, in) the gradient of the loss for W, or None.
    """

    start: Callable = lambda method, a, w, x, g: None

    def check(self, case, net, adapter):
        super().check(case, net, adapter)
        net, batches = case.base(), [case.batch(B=4), case.batch(B=5)]
        batches[0][1][:2, 0] = batches[1][1][1:, -1:] = IGNORE
        (read, learnt), modules = seen_by(net, batches), matrices(net)
        adapter = mp.attach(net, case.method, rng=case.seed)
        before = logits(net, batches[0][0])
        start_from_data(net, iter(batches))
        close(logits(net, batches[0][0]), before, 1e-11, "logits after the start")
        for path, _, arrays in changes(adapter):
            w = to_numpy(weight(modules[path]).data)
            self.start(case.method, arrays, w, read[path], learnt.get(path))
        shake(adapter, case.seed).started = False
        before = logits(net, batches[0][0])
        start_from_data(net, batches)
        same(logits(net, batches[0][0]), before, "logits of what had been trained")


def seen_by(net, batches):
    """({path: X}, {path: G}) of a bare model, all of which trains."""
    where = {path: m for path, m in matrices(net).items() if path != "wte"}
    read, learnt = {path: [] for path in where}, {}
    for path, module in where.items():
        module.forward = lambda x, path=path, f=module.forward: (
            read[path].append(to_numpy(value(x))[labels != IGNORE]) or f(x)
        )
    for ids, labels in batches:
        net.loss(ids, labels).backward()
    for path, module in where.items():
        del module.forward
        if module is not net.lm_head or not net.config.tied:  # the table's is not the head's
            learnt[path] = to_numpy(weight(module).grad) / len(batches)
    net.zero_grad()
    return {path: np.concatenate(parts) for path, parts in read.items()}, learnt


@dataclass(frozen=True)
class OnSubLayer:
    """A change of attention or of an MLP: (method, a, f, x) -> what stands for f(x)."""

    output: Callable

    def check(self, case, net, adapter):
        x = np.random.default_rng(case.seed).standard_normal((2, 3, case.config.width))
        for path, delta, arrays in changes(adapter):
            found = delta(lambda x: Tensor(xp.sin(value(x))), Tensor(xp.asarray(x)))
            agrees(found, self.output(case.method, arrays, np.sin, x), delta, path)


@dataclass(frozen=True)
class OnAttention:
    """A change of what queries find: (method, a, project, f, q) -> what stands for f(q).

    q (B, H, T, K). `project` has the layer's own two frozen projections in NumPy, "k" and "v":
    (…, width) -> (…, G K).
    """

    output: Callable

    def check(self, case, net, adapter):
        config, modules = case.config, dict(net.named_modules())
        shape = 2, config.heads, 5, config.head_width
        q = np.random.default_rng(case.seed).standard_normal(shape)
        for path, delta, arrays in changes(adapter):
            attn = modules[path.rpartition(".")[0]]
            project = {"k": affine(attn.k_proj), "v": affine(attn.v_proj)}
            found = delta(lambda q, *_: Tensor(xp.sin(value(q))), Tensor(xp.asarray(q)),
                          None, None, None)  # fmt: skip
            agrees(found, self.output(case.method, arrays, project, np.sin, q), delta, path)


def affine(layer):
    """The function of a Linear in NumPy."""
    w, bias = to_numpy(layer.weight.data), getattr(layer, "bias", None)
    return lambda x: x @ w.T + (0.0 if bias is None else to_numpy(bias.data))


def agrees(found, wanted, delta, path):
    kind = type(delta).__name__
    close(to_numpy(value(found)), wanted, 1e-11, f"{kind} at {path}, against its equation,")


@dataclass(frozen=True)
class BeforeTokens:
    """Vectors before the sequence: (method, a) -> P (n, …), which a plain transformer reads.

    reads: the name under which `reference.logits` takes P, "prompt" or "prefix".
    left: (the table, a cache) -> the P that some tokens leave, of their embeddings and of what
    a plain model that read them has cached. A method that holds such a P, and no network, acts
    as if those tokens were there.
    """

    vectors: Callable
    reads: str
    left: Callable

    def check(self, case, net, adapter):
        ((path, delta, arrays),) = changes(adapter)
        ids, _ = case.batch(2, 6)
        virtual = self.vectors(case.method, arrays)
        base = case.base()
        wanted = [reference.logits(base, row, **{self.reads: virtual}) for row in ids]
        agrees(Tensor(xp.asarray(logits(net, ids))), np.stack(wanted), delta, path)
        own = getattr(delta, "prompt_embeddings", None)
        if own is not None:
            self.in_place_of_tokens(base, net, own, ids)

    def in_place_of_tokens(self, base, net, own, ids):
        n, before = own.shape[0], own.data
        ids[:, :n] = ids[0, :n]  # the tokens that the method will stand for
        with no_grad():
            _, cache = base.read(ids[:, :n])
        table = base.wte.weight.data[xp.asarray(ids[0, :n])]
        own.data = self.left(table, cache).reshape(own.shape)
        wanted = logits(base, ids)[:, n:]
        close(logits(net, ids[:, n:]), wanted, 1e-11, "in place of tokens")
        own.data = before


@dataclass(frozen=True)
class Copies:
    """Base parameters of which copies train: (method, model) -> their paths.

    Merged, those parameters are the copies and all others what they were, bit for bit.
    """

    paths: Callable

    def check(self, case, net, adapter):
        assert not adapter.deltas
        wanted = set(self.paths(case.method, case.base()))
        trained = {path: to_numpy(p.data).copy() for path, p in adapter.copies.items()}
        assert trained.keys() == wanted, f"trains {sorted(trained.keys() ^ wanted)} or not"
        plain = {path: to_numpy(p.data).copy() for path, p in base_parameters(net)}
        receipt = mp.merge(net, adapter.name)
        merged = {path: to_numpy(p.data) for path, p in base_parameters(net)}
        assert merged.keys() == plain.keys() | trained.keys()
        for path, array in (plain | trained).items():
            same(merged[path], array, f"merged {path}")
        mp.unmerge(receipt)
