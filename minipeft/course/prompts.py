"""Checks of lesson 6, prompts and prefixes: attention to [prefix ; text] taken apart."""

from ..engine.backend import np
from .base import check, expect, pair


def attention(Q, K, V, scale=None):
    """Returns (p V, p) with p = softmax(Q Kᵀ / √head), Q (T, head), K and V (S, head)."""
    scores = Q @ K.T * (1 / np.sqrt(Q.shape[-1]) if scale is None else scale)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ V, p


def random_inputs(case, *names):
    """Returns arrays by name: Q (T, head); K, V (S, head) of the text; Pk, Pv (n, head)."""
    lengths = {"Q": case.size("T", 1, 3), "P": case.size("n", 1, 4)}
    S, head = case.size("S", 1, 4), case.size("head", 1, 4)
    return [case.array(name, lengths.get(name[0], S), head) for name in names]


def gated(Q, K, V, Pk, Pv, gate=lambda a, n, S: (1 - a, a), scale=None):
    """Returns two attentions, to text and prefix, weighted by gate(a, n, S)."""
    _, p = attention(Q, np.concatenate([Pk, K]), np.concatenate([Pv, V]), scale)
    a = p[:, : len(Pk)].sum(axis=-1, keepdims=True)
    on_text, on_prefix = gate(a, len(Pk), len(K))
    return on_text * attention(Q, K, V, scale)[0] + on_prefix * attention(Q, Pk, Pv, scale)[0]


GATE_SLIPS = {
    "you did not divide the scores by the root of the width": (
        lambda *arrays: gated(*arrays, scale=1.0)
    ),
    "you divided the scores by the width, not by its root": (
        lambda *arrays: gated(*arrays, scale=1 / arrays[0].shape[-1])
    ),
    "you exchanged the two weights: the share of the prefix belongs to the prefix": (
        lambda *arrays: gated(*arrays, lambda a, n, S: (a, 1 - a))
    ),
    "you weighted by the lengths, not by the attention that each part gets": (
        lambda *arrays: gated(*arrays, lambda a, n, S: (S / (n + S), n / (n + S)))
    ),
    "you added the two attentions, so that the weights sum to 2": (
        lambda *arrays: gated(*arrays, lambda a, n, S: (1, 1))
    ),
}


@check(
    "attention to [prefix ; text] is (1 − a) · attention to the text + a · to the prefix",
    slips=GATE_SLIPS,
)
def mixture(case, answer):
    """answer(Q, K, V, Pk, Pv) -> (T, head); scores are divided by √head first."""
    Q, K, V, Pk, Pv = random_inputs(case, "Q", "K", "V", "Pk", "Pv")
    result = answer(Q, K, V, Pk, Pv)
    expected, _ = attention(Q, np.concatenate([Pk, K]), np.concatenate([Pv, V]))
    expect(result, expected)


@check(
    "a prompt trains n · width parameters, a prefix n keys and n values in every layer",
    stars=1,
    slips={
        "you counted the keys, and forgot the values": (
            lambda n, width, layers, heads, k: (n * width, layers * n * heads * k)
        ),
        "you counted a prefix in one layer, not in all": (
            lambda n, width, layers, heads, k: (n * width, 2 * n * heads * k)
        ),
        "you gave keys and values the width of the model, not that of the key-value heads": (
            lambda n, width, layers, heads, k: (n * width, 2 * layers * n * width)
        ),
        "you counted the prompt in every layer; it is added once, at the input": (
            lambda n, width, layers, heads, k: (n * width * layers, 2 * layers * n * heads * k)
        ),
        "you returned the prefix first": (
            lambda n, width, layers, heads, k: (2 * layers * n * heads * k, n * width)
        ),
    },
)
def parameter_counts(case, answer):
    """answer(n, width, layers, kv_heads, head_width) -> parameters of (a prompt, a prefix)."""
    n, width, layers = case.size("n"), case.size("width"), case.size("layers")
    heads, head_width = case.size("kv_heads"), case.size("head_width")
    prompt, prefix = pair(answer(n, width, layers, heads, head_width), "prompt, prefix")
    expect(prompt, n * width, "the prompt")
    expect(prefix, 2 * layers * n * heads * head_width, "the prefix")


@check(
    "a prefix leaves the shares of the real tokens as they were, among themselves",
    stars=2,
    slips={
        "you left the prefix out, but the rows do not sum to 1": lambda p, n: p[:, n:],
        "you left out the last n tokens; the prefix comes first": (
            lambda p, n: p[:, :-n] / p[:, :-n].sum(axis=-1, keepdims=True)
        ),
        "you shared out the attention on the prefix evenly, not in proportion": (
            lambda p, n: p[:, n:] + p[:, :n].sum(axis=-1, keepdims=True) / (p.shape[1] - n)
        ),
        "you divided by the sum of the whole array, not of each row": (
            lambda p, n: p[:, n:] / p[:, n:].sum()
        ),
    },
)
def without_prefix(case, answer):
    """answer(p, n) for attention p (T, n + S) -> attention to the text alone, (T, S)."""
    Q, K, Pk = random_inputs(case, "Q", "K", "Pk")
    keys = np.concatenate([Pk, K])
    _, p = attention(Q, keys, keys)
    result = answer(p, len(Pk))
    _, expected = attention(Q, K, K)
    expect(result, expected)


def zero_key(value):
    """Returns an answer to `steer`: a key of zeros, and value(y, text, Σ exp(score))."""

    def steer(q, K, V, y):
        scores = np.exp(K @ q / np.sqrt(len(q)))
        return np.zeros(len(q)), value(y, scores @ V / scores.sum(), scores.sum())

    return steer


def steer_without_root(q, K, V, y):
    """The answer to `steer` of a learner who forgets √head."""
    scores = np.exp(K @ q)
    text = scores @ V / scores.sum()
    return np.zeros(len(q)), y + scores.sum() * (y - text)


@check(
    "one virtual token can make the attention output of one query any y, whatever the text",
    stars=3,
    slips={
        "you took y itself as the value, as if the text got no attention": (
            zero_key(lambda y, text, total: y)
        ),
        "you forgot to divide by the share of the virtual token": (
            zero_key(lambda y, text, total: y - text * total / (1 + total))
        ),
        "you subtracted all of the text's attention, not its share of it": (
            zero_key(lambda y, text, total: (1 + total) * (y - text))
        ),
        "you did not divide the scores by the root of the width": steer_without_root,
    },
)
def steer(case, answer):
    """answer(q, K, V, y), q and y (head,) -> (key, value), each (head,), that give it y."""
    S, head = case.size("S", 1, 4), case.size("head", 1, 4)
    q, y = case.array("q", head), case.array("y", head)
    K, V = case.array("K", S, head), case.array("V", S, head)
    key, value = (np.asarray(x, dtype=float) for x in pair(answer(q, K, V, y), "key, value"))
    expect(key.shape, q.shape, "the shape of the key")
    expect(value.shape, q.shape, "the shape of the value")
    output, p = attention(q[None], np.vstack([key, K]), np.vstack([value, V]))
    expect(output[0], y, f"with {p[0, 0]:.2g} of the attention on your token, the output")
