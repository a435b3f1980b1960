"""Laws of what is computed: gradients, what a token may see, and in how many pieces."""

import contextlib
from dataclasses import replace

import minipeft as mp
from laws.case import Random, bits, close, logits, same, shake, steps
from methods import spec_of
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.functional import IGNORE
from minipeft.engine.tensor import gradients, no_grad
from minipeft.model.gradient_checkpointing import recomputing
from minipeft.model.quantize import LEVELS, QuantizedParameter
from minipeft.peft.base import adapters, base_parameters
from minipeft.train.batch_gradient import batch_gradient, shared_start
from minipeft.train.fit import Run, Settings


def law_04_the_gradient(case):
    """The gradient along a random direction is the central difference of the loss."""
    net, adapter = case.attached()
    ids, labels = case.batch()
    rng = np.random.default_rng([case.seed, 4])
    way = [xp.asarray(rng.standard_normal(p.shape)) for p in adapter.parameters()]
    batch_gradient(net, ids, labels)
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
    """No frozen parameter holds a gradient; the tape ends in what is trained, only there."""
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
    ids, labels = case.batch()
    B, T, cut = *ids.shape, case.tokens // 2
    full = logits(net, ids)
    other = ids.copy()
    other[:, cut:] = (ids[:, cut:] + 1) % case.config.vocab
    same(logits(net, other)[:, :cut], full[:, :cut], "logits before a changed token")
    other = ids.copy()
    other[1:] = (ids[1:] + 1) % case.config.vocab
    same(logits(net, other)[:1], full[:1], "logits of a row whose neighbours changed")
    junk = np.random.default_rng(case.seed).integers(0, case.config.vocab, (B, 2))
    real = np.ones((B, T + 2), bool)
    real[:, :2] = False
    left = logits(net, np.concatenate([junk, ids], axis=1), attention_mask=real)[:, 2:]
    close(left, full, 1e-11, "logits behind padding")
    right = logits(net, np.concatenate([ids, junk], axis=1), attention_mask=real[:, ::-1])[
        :, :T
    ]
    close(right, full, 1e-11, "logits before padding")
    padding = np.full((B, 2), IGNORE)
    with no_grad():
        plain = net.loss(ids, labels).item()
        padded = net.loss(
            np.concatenate([ids, junk], axis=1), np.concatenate([labels, padding], axis=1)
        )
    close(np.array(padded.item()), np.array(plain), 1e-11, "loss with padding")


def law_12_reading_on_is_reading_at_once(case):
    """Reading in pieces with the cache gives the logits of the full forward."""
    net, _ = case.attached()
    n = case.tokens
    ids, _ = case.batch(T=n + 3)
    full = logits(net, ids)
    with no_grad():
        first, cache = net.read(ids[:, :n])
        then, cache = net.read(ids[:, n : n + 2], cache)
        last, cache = net.read(ids[:, n + 2 :], cache)
    pieces = np.concatenate([to_numpy(x.data) for x in (first, then, last)], axis=1)
    close(pieces, full, 1e-11, "logits read in pieces")


def law_13_what_a_method_is(case):
    """A method computes its equation, restated in its spec; merged, it is weights and no more.

    A fold is one of weights: a plain model that has them gives the attached logits.
    """
    net, adapter = case.attached()
    ids, _ = case.batch(2, 6)
    spec_of(case.method).equation.check(case, net, adapter)
    if case.method.mergeable:
        attached = logits(net, ids)
        mp.merge(net, "a")
        plain = replace(case, config=net.config).base()  # merging may untie the head
        merged = dict(base_parameters(net))
        for path, p in base_parameters(plain):
            p.data = merged[path].data
        close(logits(plain, ids), attached, 1e-12, "a plain model with the merged weights")


def law_14_parts_are_the_whole(case):
    """Micro-batches add up to the batch's gradient; recomputing, or sharing a start, too."""
    net, adapter = case.attached()
    ids, labels = case.batch(B=4)
    labels[1, 1:] = IGNORE

    def gradient(seed=(case.seed,), **how):
        net.zero_grad()
        loss = batch_gradient(net, ids, labels, seed=seed, **how)
        grads = [p.grad for p in adapter.parameters()]
        kept = [to_numpy(g).ravel() for g in grads if g is not None]
        return np.concatenate([[float(loss)], *kept])

    whole = gradient()
    close(gradient(micro_batches=3), whole, 1e-11, "gradient in three parts")
    with recomputing(net):
        close(gradient(), whole, 1e-12, "recomputed gradient")
    last = case.tokens - 1
    ids[:, :last], labels[:, :last] = ids[0, :last], IGNORE
    assert shared_start(net, ids, labels) == last, "the start is not shared"
    close(gradient(micro_batches=4), gradient(), 1e-11, "gradient by rows that start alike")
    dense = net.loss(ids, labels)
    dense = np.concatenate([[dense.item()], *gradients_of(dense, adapter)])
    close(gradient(seed=None), dense, 1e-11, "gradient with a shared start")
    with recomputing(net):
        close(gradient(seed=None), dense, 1e-11, "recomputed, with a shared start")


def gradients_of(loss, adapter):
    """The gradients of a loss, a flat array for each parameter that has one."""
    found = gradients(loss)
    return [to_numpy(found[p.node]).ravel() for p in adapter.parameters() if p.node in found]


def law_15_rows_may_differ(case):
    """A batch whose rows use different adapters gives each row what it gets alone."""
    net, adapter = case.attached("a")
    shake(mp.attach(net, mp.Bottleneck(m=2, nonlinearity="gelu"), "other"), case.seed)
    if adapter.copies and adapter.deltas:  # copies of base parameters, which all rows share
        with contextlib.suppress(ValueError):
            mp.use(net, rows=["a", None])
            raise AssertionError("rows share the copies")
        return
    ids, labels = case.batch(B=4)
    alone = {}
    for name in ("a", "other", None):
        mp.use(net, name)
        alone[name] = logits(net, ids)
    rows = ["a", None, "other", "a"]
    mp.use(net, rows=rows)
    mixed = logits(net, ids)
    for i, name in enumerate(rows):
        close(mixed[i], alone[name][i], 1e-11, f"logits of row {i} with {name}")
    batch_gradient(net, ids, labels)
    assert any(p.grad is not None for p in adapters(net)["a"].parameters())


def law_16_an_update_is_adamws(case):
    """One step moves each number as AdamW's definition says: matrices decay, vectors do not.

    Where a method gives a parameter another learning rate, or changes its gradient, its
    spec says how.
    """
    net, adapter = case.attached()
    before = [p.data.copy() for p in adapter.parameters()]
    ids, labels = Random(case).batch(0, 3, 0)
    batch_gradient(net, ids, labels, seed=(0, 1, 0))
    grads = [p.grad for p in adapter.parameters()]
    run = Run(net, Random(case), Settings(8, 3, lr=0.02, warmup=1, clip=None, weight_decay=0.5))
    run.step()
    spec = spec_of(case.method)
    for (path, p), w, g in zip(adapter.named_parameters(), before, grads, strict=True):
        if g is not None:  # at the first step m̂ = g and v̂ = g²
            lr = 0.02 * spec.rate(case.method, path)
            step = spec.first_step(case.method, adapter, path, to_numpy(g))
            wanted = to_numpy(w) * (1 - lr * 0.5 * (w.ndim > 1)) - lr * step
            close(to_numpy(p.data), wanted, 1e-12, "parameters after a step")


def law_17_the_base_may_be_packed(case):
    """On a base of 8 or 4 bits: the numbers nearest to it, and what any base of those gives."""
    kind, double = list(LEVELS)[case.seed % 3], case.seed % 2 == 0
    packed, plain = case.base(), case.base()
    mp.quantize(packed, kind, block=4, double=double)
    held = {path: p for path, p in base_parameters(packed) if isinstance(p, QuantizedParameter)}
    for path, p in base_parameters(plain):
        if path in held:
            data = held[path].data
            nearest_levels(to_numpy(p.data), to_numpy(data), kind, double)
            p.data = data
    before, found = bits(packed), []
    ids, labels = case.batch()
    for net in (packed, plain):
        adapter = shake(mp.attach(net, case.method, "a", rng=case.seed), case.seed)
        batch_gradient(net, ids, labels)
        grads = [to_numpy(p.grad) for p in adapter.parameters() if p.grad is not None]
        found.append([logits(net, ids), np.concatenate([g.ravel() for g in grads])])
        steps(net, case, 1)
    for ours, wanted in zip(*found, strict=True):
        close(ours, wanted, 1e-12, "on a packed base")
    assert bits(packed) == before, "the packed base changed"


def nearest_levels(w, data, kind, double, block=4):
    """Each number is at most half a step of its block's largest off, or what `double` adds."""
    rows = [np.pad(a.ravel(), (0, -a.size % block)).reshape(-1, block) for a in (w, data)]
    largest = abs(rows[0]).max(axis=1, keepdims=True)
    half = max(np.diff(LEVELS[kind])) / 2 * largest
    half += abs(largest - largest.mean()).max() / 250 if double else 0.0
    off = abs(rows[1] - rows[0]) - half
    assert off.max() <= 1e-6, f"{kind} is {off.max():.1e} more than half a step off"
