"""Checks of lesson 3, freezing: what trains, how much that is, how far back, and when."""

from ..model.config import Config
from ..model.transformer import Transformer
from .base import check, expect, require


@check("what is chosen trains, all else is frozen, and no weight moves by that")
def freeze(draw, answer):
    """answer(model, chooses) -> how many numbers train; chooses(path) is true or false."""
    layers, shape = draw.size("layers", 1, 2), draw.choice("shape", ("gpt2", "llama"))
    sizes = dict(vocab=5, context=4, width=4, layers=layers, heads=2)
    model = Transformer(getattr(Config, shape)(**sizes), rng=0)
    named, rng = dict(model.named_parameters()), draw.rng()
    for p in named.values():  # some are frozen already
        p.requires_grad = bool(rng.random() < 0.5)
    chosen = {path for path in named if rng.random() < 0.4}
    draw.drawn["chosen"] = f"{len(chosen)} of {len(named)} parameters"
    before = {path: p.data.copy() for path, p in named.items()}
    numbers = answer(model, lambda path: path in chosen)
    for path, p in named.items():
        require(p.requires_grad or path not in chosen, f"{path} was chosen, but is frozen")
        require(not p.requires_grad or path in chosen, f"{path} trains, but was not chosen")
        require((p.data == before[path]).all(), f"{path} changed its numbers")
    expect(numbers, sum(named[path].data.size for path in chosen), "numbers that train")


@check("a GPT-2 block of width D has 12 D² + 13 D numbers")
def last_k(draw, answer):
    """answer(k, D) -> the numbers of the last k blocks."""
    k, width = draw.size("k"), draw.size("D", 1, 100)
    expect(answer(k, width), k * (12 * width**2 + 13 * width))


@check("the gradient passes the block of the lowest trained number and all above, no other")
def blocks_reached(draw, answer):
    """answer(trained, layers) -> through how many blocks; trained is a set of paths."""
    layers = draw.size("layers", 1, 12)
    above, below = ["ln_f.weight", "lm_head.weight"], ["wte.weight"]
    blocks = [f"blocks.{i}.{part}" for i in range(layers) for part in ("ln_1.bias", "mlp.up")]
    places, count = [*above, *blocks[::-1], *below], draw.size("trained", 1, 3)
    trained = {draw.choice(f"path {i}", places) for i in range(count)}
    lowest = max(places.index(path) for path in trained) - len(above)
    draw.drawn = {"trained": sorted(trained), "layers": layers}
    expect(answer(set(trained), layers), min(lowest // 2 + 1, layers))


@check("the last block thaws first, then one more in each phase, until all train")
def thawed(draw, answer):
    """answer(step, steps, layers) -> the set of blocks that train."""
    layers = draw.size("layers", 1, 6)
    steps = draw.size("steps", layers, 30)
    step = draw.size("step", 0, steps - 1)
    blocks = answer(step, steps, layers)
    require(isinstance(blocks, (set, range, list, tuple)), "return a set of blocks' numbers")
    phase = max(p for p in range(layers) if step * layers >= p * steps)
    found, wanted = sorted(set(blocks)), list(range(layers - 1 - phase, layers))
    require(found == wanted, f"expected blocks {wanted}, got {found}")
