"""Checks of lesson 3, freezing: what trains, how much that is, how far back, and when."""

from ..model.config import Config
from ..model.transformer import Transformer
from .base import check, expect, require


@check("the chosen parameters train, all others are frozen, and no value changes")
def freeze(case, answer):
    """answer(model, chooses) -> how many parameters train; chooses(path) is true or false."""
    layers, shape = case.size("layers", 1, 2), case.choice("shape", ("gpt2", "llama"))
    sizes = dict(vocab=5, context=4, width=4, layers=layers, heads=2)
    model = Transformer(getattr(Config, shape)(**sizes), rng=0)
    named, rng = dict(model.named_parameters()), case.rng()
    for p in named.values():  # some are frozen already
        p.requires_grad = bool(rng.random() < 0.5)
    chosen = {path for path in named if rng.random() < 0.4}
    case.values["chosen"] = f"{len(chosen)} of {len(named)} tensors"
    before = {path: p.data.copy() for path, p in named.items()}
    result = answer(model, lambda path: path in chosen)
    for path, p in named.items():
        require(p.requires_grad or path not in chosen, f"{path} was chosen, but is frozen")
        require(not p.requires_grad or path in chosen, f"{path} trains, but was not chosen")
        require((p.data == before[path]).all(), f"the values of {path} changed")
    expect(result, sum(named[path].data.size for path in chosen), "trainable parameters")


@check("a GPT-2 block of width D has 12 D² + 13 D parameters")
def last_k(case, answer):
    """answer(k, D) -> how many parameters the last k blocks have."""
    k, width = case.size("k"), case.size("D", 1, 100)
    expect(answer(k, width), k * (12 * width**2 + 13 * width))


@check("backward passes the block of the lowest trainable parameter and all above it, no other")
def blocks_reached(case, answer):
    """answer(trained, layers) -> through how many blocks; trained is a set of paths."""
    layers = case.size("layers", 1, 12)
    above, below = ["ln_f.weight", "lm_head.weight"], ["wte.weight"]
    blocks = [f"blocks.{i}.{part}" for i in range(layers) for part in ("ln_1.bias", "mlp.up")]
    paths, n = [*above, *blocks[::-1], *below], case.size("trained", 1, 3)  # from the top down
    trained = {case.choice(f"path {i}", paths) for i in range(n)}
    depth = max(paths.index(path) for path in trained) - len(above)
    case.values = {"trained": sorted(trained), "layers": layers}
    expect(answer(set(trained), layers), min(depth // 2 + 1, layers))


@check("the last block is unfrozen first, then one more in each phase, until all train")
def unfrozen_blocks(case, answer):
    """answer(step, steps, layers) -> the set of the numbers of the blocks that train."""
    layers = case.size("layers", 1, 6)
    steps = case.size("steps", layers, 30)
    step = case.size("step", 0, steps - 1)
    result = answer(step, steps, layers)
    is_set = isinstance(result, (set, range, list, tuple))
    require(is_set, f"return a set of block numbers, got {result!r}")
    phase = max(p for p in range(layers) if step * layers >= p * steps)
    blocks, expected = sorted(set(result)), list(range(layers - 1 - phase, layers))
    require(blocks == expected, f"expected blocks {expected}, got {blocks}")
