"""Checks of lesson 3, freezing: what trains, how much that is, how far back, and when."""

from ..model.config import Config
from ..model.transformer import Transformer
from .base import check, expect, require


def small_model(layers, shape):
    """Returns a Transformer of so many blocks, of the shape "gpt2" or "llama"."""
    sizes = dict(vocab=5, context=4, width=4, layers=layers, heads=2)
    return Transformer(getattr(Config, shape)(**sizes), rng=0)


def frozen_model(answer, layers, shape, before, chosen):
    """Returns what an answer does with a small model, as plain values.

    before: the paths that train before it.  chosen: those that should afterwards.
    """
    model = small_model(layers, shape)
    named = dict(model.named_parameters())
    for path, p in named.items():
        p.requires_grad = path in before
    values = {path: p.data.copy() for path, p in named.items()}

    def chooses(path):
        return path in chosen

    count = answer(model, chooses)
    if count is None:
        return None
    return {
        "count": count,
        "train": {path for path, p in named.items() if p.requires_grad},
        "changed": [path for path, p in named.items() if (p.data != values[path]).any()],
    }


def freeze_with(decide, count):
    """Returns an answer: p trains if decide(chosen, p), and counts as count(p)."""

    def freeze(model, chooses):
        n = 0
        for path, p in model.named_parameters():
            p.requires_grad = decide(chooses(path), p)
            n += count(p) if p.requires_grad else 0
        return n

    return freeze


@check(
    "the chosen parameters train, all others are frozen, and no value changes",
    uses=("model", "engine.tensor", "engine.backend", "course.freezing.chooses"),
    slips={
        "you froze what was chosen, and train the rest": (
            freeze_with(lambda chosen, p: not chosen, lambda p: p.data.size)
        ),
        "what was frozen before stays frozen": (
            freeze_with(lambda chosen, p: chosen and p.requires_grad, lambda p: p.data.size)
        ),
        "what trained before goes on training": (
            freeze_with(lambda chosen, p: chosen or p.requires_grad, lambda p: p.data.size)
        ),
        "you counted tensors, not the parameters in them": (
            freeze_with(lambda chosen, p: chosen, lambda p: 1)
        ),
    },
)
def freeze(case, answer):
    """answer(model, chooses) -> how many parameters train; chooses(path) is true or false."""
    layers, shape = case.size("layers", 1, 2), case.choice("shape", ("gpt2", "llama"))
    sizes = {path: p.data.size for path, p in small_model(layers, shape).named_parameters()}
    rng = case.rng()
    before, chosen = ([path for path in sizes if rng.random() < share] for share in (0.5, 0.4))
    case.values["chosen"] = f"{len(chosen)} of {len(sizes)} tensors"
    result = answer(layers, shape, before, chosen, probe=frozen_model)
    for path in sizes:
        trains = path in result["train"]
        require(trains or path not in chosen, f"{path} was chosen, but is frozen")
        require(not trains or path in chosen, f"{path} trains, but was not chosen")
        require(path not in result["changed"], f"the values of {path} changed")
    expect(result["count"], sum(map(sizes.get, chosen)), "trainable parameters")


@check(
    "a GPT-2 block of width D has 12 D² + 13 D parameters",
    stars=1,
    slips={
        "you forgot the biases and the norms": lambda k, width: k * 12 * width**2,
        "you forgot the norms": lambda k, width: k * (12 * width**2 + 9 * width),
        "you forgot the biases": lambda k, width: k * (12 * width**2 + 4 * width),
        "you counted one norm instead of two": lambda k, width: (
            k * (12 * width**2 + 11 * width)
        ),
        "your MLP is as narrow as the model": lambda k, width: k * (6 * width**2 + 13 * width),
        "you counted one matrix of the MLP": lambda k, width: k * (8 * width**2 + 13 * width),
        "you counted one block, whatever k is": lambda k, width: 12 * width**2 + 13 * width,
    },
)
def last_k(case, answer):
    """answer(k, D) -> how many parameters the last k blocks have."""
    k, width = case.size("k"), case.size("D", 1, 100)
    expect(answer(k, width), k * (12 * width**2 + 13 * width))


def depth_of(trained, layers, choose=min, table=0, above=None):
    """Returns through how many blocks backward passes, by the `choose` of all that train.

    table: what counts as the block of the token table, and `above` what lies over all blocks.
    """
    above = layers if above is None else above
    blocks = [int(path.split(".")[1]) for path in trained if path.startswith("blocks.")]
    blocks += [table for path in trained if path.startswith("wte.")]
    return layers - choose(blocks, default=above)


@check(
    "backward passes the block of the lowest trainable parameter and all above it, no other",
    stars=2,
    slips={
        "you forgot to count the block itself in which the parameter lies": (
            lambda trained, layers: max(0, depth_of(trained, layers) - 1)
        ),
        "you went to the highest trainable parameter instead of the lowest": (
            lambda trained, layers: depth_of(trained, layers, max)
        ),
        "you forgot that the token table lies below all blocks": (
            lambda trained, layers: depth_of(trained, layers, table=layers)
        ),
        "you pass one block even where all that trains lies above the blocks": (
            lambda trained, layers: depth_of(trained, layers, above=layers - 1)
        ),
        "you returned the number of the lowest block, which counts from below": (
            lambda trained, layers: layers - depth_of(trained, layers)
        ),
        "you counted the blocks in which something trains, and no block above them": (
            lambda trained, layers: len({p.split(".")[1] for p in trained if p[:1] == "b"})
        ),
    },
)
def blocks_reached(case, answer):
    """answer(trained, layers) -> through how many blocks; trained is a set of paths."""
    layers = case.size("layers", 1, 12)
    above, below = ["ln_f.weight", "lm_head.weight"], ["wte.weight"]
    blocks = [f"blocks.{i}.{part}" for i in range(layers) for part in ("ln_1.bias", "mlp.up")]
    paths, n = [*above, *blocks[::-1], *below], case.size("trained", 1, 3)  # from the top down
    trained = {case.choice(f"path {i}", paths) for i in range(n)}
    case.values = {"trained": sorted(trained), "layers": layers}
    count = answer(trained, layers)
    depth = max(paths.index(path) for path in trained) - len(above)
    expect(count, min(depth // 2 + 1, layers))


@check(
    "the last block is unfrozen first, then one more in each phase, until all train",
    stars=3,
    slips={
        "you unfreeze from the bottom": (
            lambda step, steps, layers: set(range(step * layers // steps + 1))
        ),
        "you freeze again what was unfrozen before": (
            lambda step, steps, layers: {layers - 1 - step * layers // steps}
        ),
        "you unfreeze one block with every step, not with every phase": (
            lambda step, steps, layers: set(range(max(0, layers - 1 - step), layers))
        ),
        "you are one block behind: the last one trains from the first step on": (
            lambda step, steps, layers: set(range(layers - step * layers // steps, layers))
        ),
    },
)
def unfrozen_blocks(case, answer):
    """answer(step, steps, layers) -> the set of the numbers of the blocks that train."""
    layers = case.size("layers", 1, 6)
    steps = case.size("steps", layers, 30)
    step = case.size("step", 0, steps - 1)
    result = answer(step, steps, layers)
    is_set = isinstance(result, (set, list, tuple))
    require(is_set, f"return a set of block numbers, got {result!r}")
    phase = max(p for p in range(layers) if step * layers >= p * steps)
    blocks, expected = sorted(set(result)), list(range(layers - 1 - phase, layers))
    require(blocks == expected, f"expected blocks {expected}, got {blocks}")
