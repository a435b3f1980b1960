"""Checks of lesson 6, prompts and prefixes: attention to [prefix ; text] taken apart."""

from ..engine.backend import np
from .base import call, check, expect, pair


def attention(Q, K, V):
    """Returns (p V, p) with p = softmax(Q Kᵀ / √head), Q (T, head), K and V (S, head)."""
    scores = Q @ K.T / np.sqrt(Q.shape[-1])
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ V, p


def random_inputs(case, *names):
    """Returns arrays by name: Q (T, head); K, V (S, head) of the text; Pk, Pv (n, head)."""
    lengths = {"Q": case.size("T", 1, 3), "P": case.size("n", 1, 4)}
    S, head = case.size("S", 1, 4), case.size("head", 1, 4)
    return [case.array(name, lengths.get(name[0], S), head) for name in names]


@check("attention to [prefix ; text] is (1 − a) · attention to the text + a · to the prefix")
def mixture(case, answer):
    """answer(Q, K, V, Pk, Pv) -> (T, head); scores are divided by √head first."""
    Q, K, V, Pk, Pv = random_inputs(case, "Q", "K", "V", "Pk", "Pv")
    expected, _ = attention(Q, np.concatenate([Pk, K]), np.concatenate([Pv, V]))
    expect(answer(Q, K, V, Pk, Pv), expected)


@check("a prompt trains n · width parameters, a prefix n keys and n values in every layer")
def parameter_counts(case, answer):
    """answer(n, width, layers, kv_heads, head_width) -> parameters of (a prompt, a prefix)."""
    n, width, layers = case.size("n"), case.size("width"), case.size("layers")
    heads, head_width = case.size("kv_heads"), case.size("head_width")
    prompt, prefix = pair(answer(n, width, layers, heads, head_width), "prompt, prefix")
    expect(prompt, n * width, "the prompt")
    expect(prefix, 2 * layers * n * heads * head_width, "the prefix")


@check("a prefix leaves the shares of the real tokens as they were, among themselves")
def without_prefix(case, answer):
    """answer(p, n) for attention p (T, n + S) -> attention to the text alone, (T, S)."""
    Q, K, Pk = random_inputs(case, "Q", "K", "Pk")
    keys = np.concatenate([Pk, K])
    _, p = attention(Q, keys, keys)
    _, expected = attention(Q, K, K)
    expect(call(answer, p=p, n=len(Pk)), expected)


@check("one virtual token can make the attention output of one query any y, whatever the text")
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
