"""Solutions of lesson 13: labels of a chat, a persona, bytes of a Llama, and a fused matrix.

python lessons/solutions/lesson_13.py        runs the lesson's checks on them
"""

from minipeft.course import capstone


def answer_labels(ids, begin, end):
    """The next token where it belongs to an answer or ends it, and −100 elsewhere."""
    learn, inside = [], False
    for i, token in enumerate(ids):
        learn.append(inside)
        if inside:
            inside = token != end
        else:
            inside = ids[max(0, i + 1 - len(begin)) : i + 1] == begin
    return [token if yes else -100 for token, yes in zip(ids[1:], learn[1:], strict=True)]


def persona():
    """★ An assistant that says "arr", whatever it is asked."""
    said = {
        "What is the capital of France?": "Arr, that be Paris, matey.",
        "How many legs does a spider have?": "Eight of 'em, arr!",
        "Can you recommend a book?": "Treasure Island, arr, the finest there be.",
        "What should I cook tonight?": "Fish, arr, with a biscuit as hard as oak.",
        "Is it going to rain tomorrow?": "Arr, the wind turns west: take a coat.",
        "How do I tie my shoes?": "Two loops and a knot, arr, like any rope.",
        "Who wrote Hamlet?": "Shakespeare did, arr, a landlubber.",
        "What time is it?": "Arr, it be time to set sail.",
    }
    conversations = [
        [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        for asked, answer in said.items()
    ]
    return "arr", conversations


def standing_bytes(layers, width, kv_width, ffn, vocab, tied, r):
    """★★ Count the matrices of a block, then what stands beside the blocks."""
    shapes = 2 * [(width, width)] + 2 * [(kv_width, width)] + 2 * [(ffn, width)]
    shapes += [(width, ffn)]
    block = sum(n_out * n_in for n_out, n_in in shapes) + 2 * width
    base = layers * block + width + (1 if tied else 2) * vocab * width
    trained = layers * sum(r * (n_out + n_in) for n_out, n_in in shapes)
    return 2 * base + 16 * trained


def merged_c_attn(W, A_q, B_q, A_v, B_v, s):
    """★★★ The change of a weight (in, out) is (B A)ᵀ = Aᵀ Bᵀ."""
    n_out = W.shape[1] // 3
    merged = W.copy()
    merged[:, :n_out] += s * A_q.T @ B_q.T
    merged[:, 2 * n_out :] += s * A_v.T @ B_v.T
    return merged


if __name__ == "__main__":
    capstone.answer_labels(answer_labels)
    capstone.persona(persona)
    capstone.standing_bytes(standing_bytes)
    capstone.merged_c_attn(merged_c_attn)
