"""Solutions of lesson 3: freezing, counting blocks, how far back, and gradual unfreezing.

python lessons/solutions/lesson_03.py        runs the lesson's checks on them
"""

from minipeft.course import freezing


def freeze(model, chooses):
    """Trains the parameters whose path is chosen, no others; returns how many those are."""
    count = 0
    for path, p in model.named_parameters():
        p.requires_grad = chooses(path)
        count += p.data.size if p.requires_grad else 0
    return count


def last_k(k, width):
    """★ Matrices (4 + 2 · 4) D², biases (4 + 4 + 1) D, norms 2 · 2 D."""
    return k * (12 * width**2 + 13 * width)


def blocks_reached(trained, layers):
    """★★ The lowest trainable parameter decides; below the token table there is nothing."""
    lowest = layers
    for path in trained:
        if path.startswith("wte."):
            lowest = 0
        elif path.startswith("blocks."):
            lowest = min(lowest, int(path.split(".")[1]))
    return layers - lowest


def unfrozen_blocks(step, steps, layers):
    """★★★ One block in the first phase, one more in each that follows."""
    phase = step * layers // steps
    return set(range(layers - 1 - phase, layers))


if __name__ == "__main__":
    freezing.freeze(freeze)
    freezing.last_k(last_k)
    freezing.blocks_reached(blocks_reached)
    freezing.unfrozen_blocks(unfrozen_blocks)
