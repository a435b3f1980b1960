"""Checks of lesson 9: one backbone for many tasks."""

from ..engine.backend import np
from .base import check, expect, require


def untouched(arrays, before):
    """Raise CheckFailed if an answer wrote into one of its inputs, {name: array}."""
    for name, array in arrays.items():
        require((array == before[name]).all(), f"your answer wrote into {name}; copy it first")


@check("each row of a mixed batch is what it would be alone, with its own adapter or none")
def mixed_batch(draw, answer):
    """answer(x, W, A, B, which) -> (rows, out).

    x (rows, in), W (out, in), A (n, r, in) and B (n, out, r) of n adapters, their scale in B;
    which (rows,) says whose adapter each row has, −1 for the bare weight.
    """
    rows, n = draw.size("rows", 1, 4), draw.size("adapters", 1, 3)
    r, n_in, n_out = draw.size("r", 1, 3), draw.size("in"), draw.size("out")
    given = {
        "x": draw.array("x", rows, n_in),
        "W": draw.array("W", n_out, n_in),
        "A": draw.array("A", n, r, n_in),
        "B": draw.array("B", n, n_out, r),
        "which": draw.rng().integers(-1, n, rows),
    }
    draw.drawn["which"] = given["which"]
    before = {name: array.copy() for name, array in given.items()}
    got = answer(*given.values())
    untouched(given, before)
    x, W, A, B, which = given.values()
    wanted = [
        W @ row + (B[i] @ (A[i] @ row) if i >= 0 else 0.0)
        for row, i in zip(x, which, strict=True)
    ]
    expect(got, np.array(wanted))


@check("bfloat16 keeps 8 significant bits, of the nearest such number, and of two the even one")
def bf16(draw, answer):
    """answer(x) -> float32 of the same shape, each a bfloat16; x float32."""
    high = draw.size("the first 16 bits", 0x3F80, 0x40FF)
    low = draw.choice("the last 16 bits", (0x8000, 0x0000, 0x7FFF, 0x8001, 0xFFFF))
    x = np.array([high << 16 | low], np.uint32).view(np.float32) * (
        1 - 2 * draw.size("−", 0, 1)
    )
    draw.drawn = {"x": f"[{x[0]:.9g}]", "its last 16 bits": f"{low:#06x}"}
    before = x.copy()
    got = np.asarray(answer(x))
    untouched({"x": x}, {"x": before})
    up = low > 0x8000 or (low == 0x8000 and high % 2)
    wanted = np.array([(high + int(up)) << 16], np.uint32).view(np.float32)
    expect(got, np.copysign(wanted, x), tolerance=0.0)


@check("unmerging restores every bit of the weight, in whatever precision")
def merge_and_back(draw, answer):
    """answer(W, change) -> (merged, restored), both of W's dtype."""
    kind = draw.choice("dtype", ("float32", "float16"))
    n_out, n_in = draw.size("out"), draw.size("in")
    W = (draw.array("W", n_out, n_in) / 7).astype(kind)
    change = (draw.array("change", n_out, n_in) / 1000).astype(kind)
    W.flat[0], change.flat[0] = 0.1, 7e-5  # W + c − c is not W here
    draw.drawn |= {"W": W.copy(), "change": change.copy()}
    old, same = W.copy(), change.copy()
    both = answer(W, change)
    require(isinstance(both, tuple) and len(both) == 2, "return the pair (merged, restored)")
    merged, restored = map(np.asarray, both)
    untouched({"change": change}, {"change": same})
    expect(merged, old + same, "merged", tolerance=0.0)
    require(merged.dtype == restored.dtype == old.dtype, f"keep the dtype, {kind}")
    expect(restored, old, "restored")
    for now, was in zip(restored.flat, old.flat, strict=True):
        require(now == was, f"restored: {was:.9g} came back as {now:.9g}")


def two(draw):
    """[(B, A), (B, A)] of two low-rank changes of one weight, and their weights in a sum."""
    n_out, n_in = draw.size("out", 2), draw.size("in", 2)
    pairs = []
    for name in "ab":
        r = draw.size(f"r {name}", 1, 3)
        pairs.append((draw.array(f"B {name}", n_out, r), draw.array(f"A {name}", r, n_in)))
    draw.drawn["weight b"] = -draw.number("weight b", 0.5, 3)
    return pairs, [draw.number("weight a", 0.5, 3), draw.drawn["weight b"]]


@check("a combined adapter's B A is the weighted sum of the changes, without cross terms")
def combined(draw, answer):
    """answer(pairs, weights) -> (B, A); pairs [(B, A), …] of one weight, the scale in B."""
    pairs, weights = two(draw)
    both = answer(pairs, weights)
    require(isinstance(both, tuple) and len(both) == 2, "return the pair (B, A)")
    b, a = map(np.asarray, both)
    wanted = sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))
    try:
        got = b @ a
    except ValueError:
        require(False, f"B {b.shape} and A {a.shape} cannot be multiplied")
    expect(got, wanted, "B A")


@check("the best rank-k combination misses the sum by the singular values it leaves out")
def best_of_rank(draw, answer):
    """answer(pairs, weights, k) -> (B, A) with B (out, k) and A (k, in)."""
    pairs, weights = two(draw)
    n_out, n_in = len(pairs[0][0]), pairs[0][1].shape[1]
    k = draw.size("k", 1, min(n_out, n_in))
    both = answer(pairs, weights, k)
    require(isinstance(both, tuple) and len(both) == 2, "return the pair (B, A)")
    b, a = map(np.asarray, both)
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, k) and a.shape == (k, n_in), f"of rank k = {k}, got {shapes}")
    wanted = sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))
    tail = np.linalg.svd(wanted, compute_uv=False)[k:]
    expect(np.linalg.norm(b @ a - wanted), np.linalg.norm(tail), "‖B A − sum‖")
