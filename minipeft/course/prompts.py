"""Checks of lesson 6, prompts and prefixes: attention to [prefix ; text] taken apart."""

from ..engine.backend import np
from .base import check, expect, require


def attention(Q, keys, values):
    """(softmax(Q Kᵀ / √head) V, the probabilities) for Q (T, head), the others (S, head)."""
    scores = Q @ keys.T / np.sqrt(Q.shape[-1])
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p @ values, p


def slots(draw, *names):
    """Queries Q (T, head), keys or values of the text (S, head), of the prefix (n, head)."""
    lengths = {"Q": draw.size("T", 1, 3), "P": draw.size("n", 1, 4)}
    S, head = draw.size("S", 1, 4), draw.size("head", 1, 4)
    return [draw.array(name, lengths.get(name[0], S), head) for name in names]


@check("attention to [prefix ; text] is (1 − a) · attention to the text + a · to the prefix")
def mixture(draw, answer):
    """answer(Q, K, V, Pk, Pv) -> (T, head); scores are divided by √head first."""
    Q, K, V, Pk, Pv = slots(draw, "Q", "K", "V", "Pk", "Pv")
    both, _ = attention(Q, np.concatenate([Pk, K]), np.concatenate([Pv, V]))
    expect(answer(Q, K, V, Pk, Pv), both)


@check("a prompt has n width numbers, a prefix n keys and n values in every layer")
def sizes(draw, answer):
    """answer(n, width, layers, kv_heads, head_width) -> (numbers of a prompt, of a prefix)."""
    n, width, layers = draw.size("n"), draw.size("width"), draw.size("layers")
    heads, head_width = draw.size("kv_heads"), draw.size("head_width")
    prompt, prefix = answer(n, width, layers, heads, head_width)
    expect(prompt, n * width, "the prompt")
    expect(prefix, 2 * layers * n * heads * head_width, "the prefix")


@check("a prefix leaves the shares of the real tokens as they were, among themselves")
def without_prefix(draw, answer):
    """answer(p, n) for attention p (T, n + S) -> attention to the text alone, (T, S)."""
    Q, K, Pk = slots(draw, "Q", "K", "Pk")
    _, p = attention(Q, np.concatenate([Pk, K]), np.concatenate([Pk, K]))
    _, bare = attention(Q, K, K)
    before = p.copy()
    expect(answer(p, len(Pk)), bare)
    require((p == before).all(), "your function wrote into p")


@check("one virtual token moves what one query finds to any y, whatever the text says")
def steer(draw, answer):
    """answer(q, K, V, y), q and y (head,) -> (key, value), each (head,), that give it y."""
    S, head = draw.size("S", 1, 4), draw.size("head", 1, 4)
    q, y = draw.array("q", head), draw.array("y", head)
    K, V = draw.array("K", S, head), draw.array("V", S, head)
    key, value = (np.asarray(x, dtype=float) for x in answer(q, K, V, y))
    expect(key.shape, q.shape, "the shape of the key")
    expect(value.shape, q.shape, "the shape of the value")
    found, p = attention(q[None], np.vstack([key, K]), np.vstack([value, V]))
    expect(found[0], y, f"the query gives your token {p[0, 0]:.2g} of its attention and finds")
