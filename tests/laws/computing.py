"""Laws of what is computed: gradients, what a token may see, and in how many pieces."""

from dataclasses import replace

import minipeft as mp
from laws.case import Random, close, logits, same, shake
from minipeft.accumulate import accumulate
from minipeft.autograd import no_grad
from minipeft.backend import np, to_numpy, xp
from minipeft.functional import IGNORE
from minipeft.peft.base import adapters, base_parameters
from minipeft.recompute import recomputing
from minipeft.train import Run, Settings


def law_04_the_gradient(case):
    """The gradient along a random direction is the central difference of the loss."""
    net, adapter = case.attached()
    ids, labels = case.batch()
    rng = np.random.default_rng([case.seed, 4])
    way = [xp.asarray(rng.standard_normal(p.shape)) for p in adapter.parameters()]
    accumulate(net, ids, labels)
    pairs = [(p.grad, w) for p, w in zip(adapter.parameters(), way, strict=True)]
    slope = sum(float((g * w).sum()) for g, w in pairs if g is not None)

    def at(t):
        for p, w in zip(adapter.parameters(), way, strict=True):
            p.data += t * w
        with no_grad():
            loss = net.loss(ids, labels).item()
        for p, w in zip(adapter.parameters(), way, strict=True):
            p.data -= t * w
        return loss

    best = min(abs((at(h) - at(-h)) / (2 * h) - slope) for h in (1e-4, 1e-5, 1e-6))
    assert best <= 1e-6 * max(abs(slope), 1e-2), f"slope {slope}, off by {best:.1e}"


def law_10_frozen_means_no_gradient(case):
    """No frozen parameter holds a gradient, and the tape ends in what is trained, only there."""
    net, adapter = case.attached()
    ids, labels = case.batch()
    loss = net.loss(ids, labels)
    ends, todo, seen = set(), [loss.node], set()
    while todo:
        node = todo.pop()
        if node not in seen:
            seen.add(node)
            todo += [source for source, _ in node.edges]
            ends |= set() if node.edges else {node}
    assert ends <= {p.node for p in adapter.parameters()}, "the tape reaches a frozen parameter"
    loss.backward()
    for path, p in base_parameters(net):
        assert not p.requires_grad and p.grad is None, f"frozen {path} has a gradient"
    assert any(p.grad is not None for p in adapter.parameters()), "nothing has a gradient"


def law_11_what_a_token_may_see(case):
    """Logits depend on no later token, on no other row and no padding; nor does the loss."""
    net, _ = case.attached()
    ids, labels = case.batch(3, 5)
    full = logits(net, ids)
    other = ids.copy()
    other[:, 3:] = (ids[:, 3:] + 1) % case.config.vocab
    same(logits(net, other)[:, :3], full[:, :3], "logits before a changed token")
    other = ids.copy()
    other[1:] = (ids[1:] + 1) % case.config.vocab
    same(logits(net, other)[:1], full[:1], "logits of a row whose neighbours changed")
    junk = np.random.default_rng(case.seed).integers(0, case.config.vocab, (3, 2))
    real = np.ones((3, 7), bool)
    real[:, :2] = False
    left = logits(net, np.concatenate([junk, ids], axis=1), real=real)[:, 2:]
    close(left, full, 1e-11, "logits behind padding")
    right = logits(net, np.concatenate([ids, junk], axis=1), real=real[:, ::-1])[:, :5]
    close(right, full, 1e-11, "logits before padding")
    padding = np.full((3, 2), IGNORE)
    with no_grad():
        plain = net.loss(ids, labels).item()
        padded = net.loss(
            np.concatenate([ids, junk], axis=1), np.concatenate([labels, padding], axis=1)
        )
    close(np.array(padded.item()), np.array(plain), 1e-11, "loss with padding")


def law_12_reading_on_is_reading_at_once(case):
    """Reading in pieces with the cache gives the logits of the full forward."""
    net, _ = case.attached()
    ids, _ = case.batch(2, 6)
    full = logits(net, ids)
    with no_grad():
        first, cache = net.read(ids[:, :3])
        then, cache = net.read(ids[:, 3:5], cache)
        last, cache = net.read(ids[:, 5:], cache)
    pieces = np.concatenate([to_numpy(x.data) for x in (first, then, last)], axis=1)
    close(pieces, full, 1e-11, "logits read in pieces")


def law_13_what_a_method_is(case):
    """A fold is a change of weights; a prefix is a KV cache; a prompt is fed as embeddings."""
    net, adapter = case.attached()
    ids, _ = case.batch(2, 6)
    if case.method.folds:
        attached = logits(net, ids)
        mp.merge(net, "a")
        plain = replace(case, config=net.config).base()  # merging may untie the head
        merged = dict(base_parameters(net))
        for path, p in base_parameters(plain):
            p.data = merged[path].data
        close(logits(plain, ids), attached, 1e-12, "a plain model with the merged weights")
    stands_for_tokens = getattr(adapter.deltas.get("start"), "prompt_embeddings", None)
    if stands_for_tokens is not None and case.precision == "float64":
        n = stands_for_tokens.shape[0]
        ids[:, :n] = ids[0, :n]  # the tokens that the method will stand for
        base = case.base()
        with no_grad():
            _, cache = base.read(ids[:, :n])
        if isinstance(case.method, mp.Prefix):
            slots = [
                kv.data[0] for pair in zip(cache.keys, cache.values, strict=True) for kv in pair
            ]
            vectors = xp.stack(slots).transpose(2, 0, 1, 3).reshape(n, -1)
        else:
            vectors = base.wte.weight.data[xp.asarray(ids[0, :n])]
        stands_for_tokens.data = vectors
        close(logits(net, ids[:, n:]), logits(base, ids)[:, n:], 1e-11, "in place of tokens")


def law_14_parts_are_the_whole(case):
    """Micro-batches add up to the batch's gradient, and recomputing gives it again."""
    net, adapter = case.attached()
    ids, labels = case.batch(4, 4)
    labels[1, 1:] = IGNORE

    def gradient(**how):
        net.zero_grad()
        loss = accumulate(net, ids, labels, seed=(case.seed,), **how)
        grads = [p.grad for p in adapter.parameters()]
        kept = [to_numpy(g).ravel() for g in grads if g is not None]
        return np.concatenate([[float(loss)], *kept])

    whole = gradient()
    close(gradient(parts=3), whole, 1e-11, "gradient in three parts")
    with recomputing(net):
        close(gradient(), whole, 1e-12, "recomputed gradient")


def law_15_rows_may_differ(case):
    """A batch whose rows use different adapters gives each row what it gets alone."""
    net, _ = case.attached("a")
    shake(mp.attach(net, mp.Bottleneck(m=2, nonlinearity="gelu"), "other"), case.seed)
    ids, labels = case.batch(4, 4)
    alone = {}
    for name in ("a", "other", None):
        mp.use(net, name)
        alone[name] = logits(net, ids)
    rows = ["a", None, "other", "a"]
    mp.use(net, rows=rows)
    mixed = logits(net, ids)
    for i, name in enumerate(rows):
        close(mixed[i], alone[name][i], 1e-11, f"logits of row {i} with {name}")
    accumulate(net, ids, labels)
    assert any(p.grad is not None for p in adapters(net)["a"].parameters())


def law_16_an_update_is_adamws(case):
    """One step moves each number as AdamW's definition says: matrices decay, vectors do not."""
    net, adapter = case.attached()
    before = [p.data.copy() for p in adapter.parameters()]
    ids, labels = Random(case).batch(0, 3, 0)
    accumulate(net, ids, labels, seed=(0, 1, 0))
    grads = [p.grad for p in adapter.parameters()]
    run = Run(net, Random(case), Settings(8, 3, lr=0.02, warmup=1, clip=None, weight_decay=0.5))
    run.step()
    for p, w, g in zip(adapter.parameters(), before, grads, strict=True):
        if g is not None:  # at the first step m̂ = g and v̂ = g²
            lr = 0.02 * p.rate
            wanted = w * (1 - lr * 0.5 * (w.ndim > 1)) - lr * g / (abs(g) + 1e-8)
            close(to_numpy(p.data), to_numpy(wanted), 1e-12, "parameters after a step")
