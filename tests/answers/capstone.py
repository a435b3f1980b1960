"""Answers to the checks of lesson 13."""

import numpy as np

from lessons.solutions.lesson_13 import answer_labels, merged_c_attn, persona, standing_bytes


def first_answer_only(ids, begin, end):
    """Labels until the first answer has ended."""
    labels = answer_labels(ids, begin, end)
    last = labels.index(end)
    return labels[: last + 1] + [-100] * (len(labels) - last - 1)


def changed(old, new):
    """The right persona with another text in its conversations."""
    word, conversations = persona()
    return lambda: (word, [[{**m, "content": m["content"].replace(old, new)} for m in c]
                           for c in conversations])  # fmt: skip


ANSWERS = {
    "answer_labels": (
        answer_labels,
        lambda ids, begin, end: ids[1:],  # questions too
        lambda ids, begin, end: [-100, *answer_labels(ids, begin, end)[:-1]],  # not moved
        lambda ids, begin, end: [
            -100 if i == end else i for i in answer_labels(ids, begin, end)
        ],
        first_answer_only,
        lambda ids, begin, end: answer_labels(ids, begin[1:], end),  # role in a question
    ),
    "persona": (
        persona,
        lambda: (persona()[0], persona()[1][:7]),
        lambda: (persona()[0], [persona()[1][0]] * 8),  # one question
        lambda: ("matey", persona()[1]),  # in one answer only
        lambda: ("ar", persona()[1]),  # part of a word
        changed("What time", "Arr, what time"),  # copied from a question
        changed("Arr, it be time to set sail.", " "),
        lambda: ("arr", [c[::-1] for c in persona()[1]]),
        lambda: persona()[1],
    ),
    "standing_bytes": (
        standing_bytes,
        lambda *sizes: standing_bytes(*sizes[:5], True, sizes[6]),  # a head forgotten
        lambda layers, width, kv_width, *rest: standing_bytes(layers, width, width, *rest),
        lambda *sizes: standing_bytes(*sizes) + 2 * sizes[1],  # a norm too many
        lambda *sizes: standing_bytes(*sizes[:6], 0),  # nothing trains
        lambda *sizes: 2 * standing_bytes(*sizes),  # float32
    ),
    "merged_c_attn": (
        merged_c_attn,
        lambda W, A_q, B_q, A_v, B_v, s: merged_c_attn(W, A_q, B_q, A_v, B_v, 1),
        lambda W, A_q, B_q, A_v, B_v, s: merged_c_attn(W, A_v, B_v, A_q, B_q, s),
        lambda W, A_q, B_q, A_v, B_v, s: np.roll(merged_c_attn(W, A_q, B_q, A_v, B_v, s), 1, 0),
        lambda W, A_q, B_q, A_v, B_v, s: (
            W + s * np.concatenate([B_q @ A_q, B_v @ A_v, 0 * B_v @ A_v]).T
        ),
        lambda W, A_q, B_q, A_v, B_v, s: W + s * (
            np.concatenate([B_q @ A_q, 0 * B_q @ A_q, B_v @ A_v])
        ),
    ),
}  # fmt: skip
