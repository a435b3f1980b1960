"""Solutions of lesson 7: merging (IA)³ and a norm, counting BitFit, the best scaling.

python lessons/solutions/lesson_07.py        runs the lesson's checks on them
"""

from minipeft.course import selective


def stretch_output(W, b, stretch):
    """Rows are outputs, and the bias belongs to them."""
    return stretch[:, None] * W, stretch * b


def stretch_input(W, b, stretch):
    """Columns are inputs; the bias is added later."""
    return W * stretch, b


def biases(layers, width, ffn):
    """★ q, k, v, o and down have width biases, up has ffn; then two norms, and the last one."""
    return layers * (5 * width + ffn + 2 * width) + width


def merged_norm(W, b, gain, beta):
    """★★ W (gain ∘ n + beta) + b = (W ∘ gain) n + (W beta + b)."""
    return W * gain, W @ beta + b


def best_stretch(W, T):
    """★★★ Least squares with one unknown per row."""
    return (W * T).sum(axis=1) / (W * W).sum(axis=1)


if __name__ == "__main__":
    selective.stretch_output(stretch_output)
    selective.stretch_input(stretch_input)
    selective.biases(biases)
    selective.merged_norm(merged_norm)
    selective.best_stretch(best_stretch)
