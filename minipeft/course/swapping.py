"""Checks of lesson 9, many tasks: mixed batches, merging without loss, combined adapters."""

from ..engine.backend import np
from .base import call, check, expect, pair, require


@check("each row of a mixed batch is what it would be alone, with its own adapter or none")
def mixed_batch(case, answer):
    """answer(x, W, A, B, which) -> (rows, out).

    x (rows, in), W (out, in), A (n, r, in) and B (n, out, r) of n adapters, their scale in B;
    which (rows,) is the number of each row's adapter, −1 for none.
    """
    rows, n = case.size("rows", 1, 4), case.size("adapters", 1, 3)
    r, n_in, n_out = case.size("r", 1, 3), case.size("in"), case.size("out")
    x, W = case.array("x", rows, n_in), case.array("W", n_out, n_in)
    A, B = case.array("A", n, r, n_in), case.array("B", n, n_out, r)
    which = case.values["which"] = case.rng().integers(-1, n, rows)
    result = call(answer, x=x, W=W, A=A, B=B, which=which)
    expected = [
        W @ row + (B[i] @ (A[i] @ row) if i >= 0 else 0.0)
        for row, i in zip(x, which, strict=True)
    ]
    expect(result, np.array(expected))


@check("bfloat16 has 8 significant bits: the nearest such value, and of two the even one")
def bf16(case, answer):
    """answer(x) -> x rounded to bfloat16, as float32 of the same shape; x is float32."""
    high = case.size("the first 16 bits", 0x3F80, 0x40FF)
    low = case.choice("the last 16 bits", (0x8000, 0x0000, 0x7FFF, 0x8001, 0xFFFF))
    sign = 1 - 2 * case.size("−", 0, 1)
    x = sign * np.array([high << 16 | low], np.uint32).view(np.float32)
    case.values = {"x": f"[{x[0]:.9g}]", "its last 16 bits": f"{low:#06x}"}
    result = np.asarray(call(answer, x=x))
    up = low > 0x8000 or (low == 0x8000 and high % 2)
    expected = np.array([(high + int(up)) << 16], np.uint32).view(np.float32)
    expect(result, np.copysign(expected, x), tolerance=0.0)


@check("unmerging restores every bit of the weight, in whatever precision")
def merge_and_back(case, answer):
    """answer(W, change) -> (merged, restored), both of W's dtype."""
    kind = case.choice("dtype", ("float32", "float16"))
    n_out, n_in = case.size("out"), case.size("in")
    W = (case.array("W", n_out, n_in) / 7).astype(kind)
    change = (case.array("change", n_out, n_in) / 1000).astype(kind)
    change.flat[0] = 0.25
    below = np.nextafter(change, np.zeros_like(change))
    W.flat[0] = below.flat[0]  # W + c is rounded up, so W + c − c is not W
    case.values |= {"W": W.copy(), "change": change}
    both = call(lambda c: answer(W.copy(), c), change=change)
    merged, restored = map(np.asarray, pair(both, "merged, restored"))
    expect(merged, W + change, "merged", tolerance=0.0)
    require(merged.dtype == restored.dtype == W.dtype, f"keep the dtype, {kind}")
    expect(restored, W, "restored")
    for now, before in zip(restored.flat, W.flat, strict=True):
        require(now == before, f"restored: {before:.9g} came back as {now:.9g}")


def two_changes(case):
    """Returns [(B, A), (B, A)] of two low-rank changes of one weight, and weights for them."""
    n_out, n_in = case.size("out", 2), case.size("in", 2)
    pairs = []
    for name in "ab":
        r = case.size(f"r {name}", 1, 3)
        pairs.append((case.array(f"B {name}", n_out, r), case.array(f"A {name}", r, n_in)))
    case.values["weight b"] = -case.number("weight b", 0.5, 3)
    return pairs, [case.number("weight a", 0.5, 3), case.values["weight b"]]


@check("a combined adapter's B A is the weighted sum of the changes, without cross terms")
def combined(case, answer):
    """answer(pairs, weights) -> (B, A); pairs [(B, A), …] of one weight, the scale in B."""
    pairs, weights = two_changes(case)
    b, a = map(np.asarray, pair(answer(pairs, weights), "B, A"))
    expected = sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))
    try:
        product = b @ a
    except ValueError:
        require(False, f"B {b.shape} and A {a.shape} cannot be multiplied")
    expect(product, expected, "B A")


@check("the best rank-k combination misses the sum by the singular values it leaves out")
def best_of_rank(case, answer):
    """answer(pairs, weights, k) -> (B, A) with B (out, k) and A (k, in)."""
    pairs, weights = two_changes(case)
    n_out, n_in = len(pairs[0][0]), pairs[0][1].shape[1]
    k = case.size("k", 1, min(n_out, n_in))
    b, a = map(np.asarray, pair(answer(pairs, weights, k), "B, A"))
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, k) and a.shape == (k, n_in), f"of rank k = {k}, got {shapes}")
    total = sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))
    tail = np.linalg.svd(total, compute_uv=False)[k:]
    expect(np.linalg.norm(b @ a - total), np.linalg.norm(tail), "‖B A − sum‖")
