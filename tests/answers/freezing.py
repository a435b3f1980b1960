"""Answers to the checks of lesson 3."""

from lessons.solutions.lesson_03 import blocks_reached, freeze, last_k, unfrozen_blocks


def never_unfrozen(model, chooses):
    """Freezes, but leaves frozen what was frozen before."""
    count = 0
    for path, p in model.named_parameters():
        if not chooses(path):
            p.requires_grad = False
        count += p.data.size if p.requires_grad else 0
    return count


def tensors_counted(model, chooses):
    """Counts tensors, not their parameters."""
    freeze(model, chooses)
    return sum(p.requires_grad for p in model.parameters())


def zeroed(model, chooses):
    """Sets frozen parameters to zero."""
    for path, p in model.named_parameters():
        p.data *= chooses(path)
    return freeze(model, chooses)


ANSWERS = {
    "freeze": (
        freeze,
        never_unfrozen,
        tensors_counted,
        zeroed,
        lambda model, chooses: freeze(model, lambda path: not chooses(path)),
    ),
    "last_k": (
        last_k,
        lambda k, width: k * 12 * width**2,  # no biases, no norms
        lambda k, width: k * (12 * width**2 + 9 * width),  # no norms
        lambda k, width: k * (6 * width**2 + 13 * width),  # an MLP as narrow as the model
    ),
    "blocks_reached": (
        blocks_reached,
        lambda trained, layers: len({path.split(".")[1] for path in trained if "blo" in path}),
        lambda trained, layers: layers,
        lambda trained, layers: max(0, blocks_reached(trained, layers) - 1),
        lambda trained, layers: blocks_reached(trained - {"wte.weight"}, layers),
    ),
    "unfrozen_blocks": (
        unfrozen_blocks,
        lambda step, steps, layers: set(range(step * layers // steps + 1)),  # from the bottom
        lambda step, steps, layers: {layers - 1 - step * layers // steps},  # one at a time
        lambda step, steps, layers: unfrozen_blocks(step, steps, layers) - {layers - 1},
        lambda step, steps, layers: set(range(max(0, layers - 1 - step), layers)),
    ),
}
