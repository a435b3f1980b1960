"""Solutions of lesson 6: attention to a prefix, its size, and what one token can do.

python lessons/solutions/lesson_06.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import prompts


def mixture(Q, K, V, Pk, Pv):
    """Two attentions, weighted by how much of Σ exp(score) lies on each side."""
    root = np.sqrt(Q.shape[-1])
    text, prefix = np.exp(Q @ K.T / root), np.exp(Q @ Pk.T / root)
    on_text, on_prefix = text.sum(-1, keepdims=True), prefix.sum(-1, keepdims=True)
    a = on_prefix / (on_text + on_prefix)
    return (1 - a) * (text @ V / on_text) + a * (prefix @ Pv / on_prefix)


def parameter_counts(n, width, layers, kv_heads, head_width):
    """★ A prompt is n embeddings; a prefix is n slots of every layer's KV cache."""
    return n * width, 2 * layers * n * kv_heads * head_width


def without_prefix(p, n):
    """★★ Leave the prefix out and let what is left sum to 1 again."""
    text = p[:, n:]
    return text / text.sum(axis=-1, keepdims=True)


def steer(q, K, V, y):
    """★★★ A key of zeros scores 0, so a is known; then y = (1 − a) · text + a · value."""
    scores = np.exp(K @ q / np.sqrt(len(q)))
    a = 1 / (1 + scores.sum())
    text = scores @ V / scores.sum()
    return np.zeros(len(q)), (y - (1 - a) * text) / a


if __name__ == "__main__":
    prompts.mixture(mixture)
    prompts.parameter_counts(parameter_counts)
    prompts.without_prefix(without_prefix)
    prompts.steer(steer)
