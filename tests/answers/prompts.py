"""Answers to the checks of lesson 6."""

import numpy as np

from lessons.solutions import lesson_06 as right


def parts(Q, K, V, Pk, Pv, root):
    text, prefix = np.exp(Q @ K.T / root), np.exp(Q @ Pk.T / root)
    sums = text.sum(-1, keepdims=True), prefix.sum(-1, keepdims=True)
    return text @ V / sums[0], prefix @ Pv / sums[1], *sums


def unscaled(*args):
    text, prefix, s, t = parts(*args, 1.0)
    return (s * text + t * prefix) / (s + t)


def by_length(Q, K, V, Pk, Pv):
    text, prefix, _, _ = parts(Q, K, V, Pk, Pv, np.sqrt(Q.shape[-1]))
    return (len(K) * text + len(Pk) * prefix) / (len(K) + len(Pk))


def added(Q, *args):
    text, prefix, _, _ = parts(Q, *args, np.sqrt(Q.shape[-1]))
    return text + prefix


def gate_turned(Q, *args):
    text, prefix, s, t = parts(Q, *args, np.sqrt(Q.shape[-1]))
    return (t * text + s * prefix) / (s + t)


def not_renormalised(p, n):
    return p[:, n:]


def last_slots(p, n):
    return p[:, :-n] / p[:, :-n].sum(axis=-1, keepdims=True)


def evenly(p, n):
    return p[:, n:] + p[:, :n].sum(axis=-1, keepdims=True) / (p.shape[1] - n)


def in_place(p, n):
    p[:, n:] /= p[:, n:].sum(axis=-1, keepdims=True)
    return p[:, n:]


def value_alone(q, K, V, y):
    return np.zeros(len(q)), y


def without_the_root(q, K, V, y):
    scores = np.exp(K @ q)
    text = scores @ V / scores.sum()
    return np.zeros(len(q)), y + scores.sum() * (y - text)


def ungated(q, K, V, y):
    scores = np.exp(K @ q / np.sqrt(len(q)))
    return np.zeros(len(q)), y - scores @ V / scores.sum()


ANSWERS = {
    "mixture": (right.mixture, unscaled, by_length, added, gate_turned),
    "parameter_counts": (
        right.parameter_counts,
        lambda n, width, layers, heads, k: (n * width, layers * n * heads * k),
        lambda n, width, layers, heads, k: (n * width, 2 * layers * n * width),
        lambda n, width, layers, heads, k: (n * width * layers, 2 * layers * n * heads * k),
    ),
    "without_prefix": (right.without_prefix, not_renormalised, last_slots, evenly, in_place),
    "steer": (right.steer, value_alone, without_the_root, ungated),
}
