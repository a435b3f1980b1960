"""Checks of lesson 9, many tasks: mixed batches, merging without loss, combined adapters."""

from ..engine.backend import np
from .base import check, expect, matrices, require

LARGE = 200  # inputs and outputs of a weight whose (out, in) is not to be formed


def by_adapter(x, W, A, B, which):
    """Returns each row with the adapter of its number, −1 being the last one."""
    change = np.einsum("bor,bri,bi->bo", B[which], A[which], x)
    return x @ W.T + change


@check(
    "each row of a mixed batch is what it would be alone, with its own adapter or none",
    slips={
        "you took −1 for the last adapter, as Python's indexing does": by_adapter,
        "you used the first row's adapter for all rows": (
            lambda x, W, A, B, which: (
                by_adapter(x, W, A, B, 0 * which + which[0]) if which[0] >= 0 else x @ W.T
            )
        ),
        "you forgot the weight that all rows share": (
            lambda x, W, A, B, which: by_adapter(x, 0 * W, A, B, which) * (which[:, None] >= 0)
        ),
    },
)
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
    result = answer(x, W, A, B, which)
    expected = [
        W @ row + (B[i] @ (A[i] @ row) if i >= 0 else 0.0)
        for row, i in zip(x, which, strict=True)
    ]
    expect(result, np.array(expected))


def upper_bits(x, added=0):
    """Returns float32 values with their last 16 bits dropped, after a number was added."""
    return ((x.view(np.uint32) + np.uint32(added)) & np.uint32(0xFFFF0000)).view(np.float32)


@check(
    "bfloat16 has 8 significant bits: the nearest such value, and of two the even one",
    slips={
        "you dropped the last 16 bits, without rounding": upper_bits,
        "you rounded halves away from zero; they go to the even neighbour": (
            lambda x: upper_bits(x, 0x8000)
        ),
        "you returned x as it was": lambda x: x + 0,
        "you rounded to float16, which has other bits": (
            lambda x: x.astype(np.float16).astype(np.float32)
        ),
    },
)
def bf16(case, answer):
    """answer(x) -> x rounded to bfloat16, as float32 of the same shape; x is float32."""
    high = case.size("the first 16 bits", 0x3F80, 0x40FF)
    low = case.choice("the last 16 bits", (0x8000, 0x0000, 0x7FFF, 0x8001, 0xFFFF))
    sign = 1 - 2 * case.size("−", 0, 1)
    x = sign * np.array([high << 16 | low], np.uint32).view(np.float32)
    case.values = {"x": f"[{x[0]:.9g}]", "its last 16 bits": f"{low:#06x}"}
    result = answer(x)
    up = low > 0x8000 or (low == 0x8000 and high % 2)
    expected = np.array([(high + int(up)) << 16], np.uint32).view(np.float32)
    expect(result, np.copysign(expected, x), tolerance=0.0)


@check(
    "unmerging restores every bit of the weight, in whatever precision",
    stars=1,
    slips={
        "you subtracted the change again, which does not give back every bit": (
            lambda W, change: (W + change, W + change - change)
        ),
        "you returned W first": lambda W, change: (W, W + change),
        "you did not merge": lambda W, change: (W, W),
        "both of your arrays are merged": lambda W, change: (W + change, W + change),
    },
)
def merge_and_back(case, answer):
    """answer(W, change) -> (merged, restored), both of W's dtype."""
    kind = case.choice("dtype", ("float32", "float16"))
    n_out, n_in = case.size("out"), case.size("in")
    W = (case.array("W", n_out, n_in) / 7).astype(kind)
    change = (case.array("change", n_out, n_in) / 1000).astype(kind)
    change.flat[0] = 0.25
    below = np.nextafter(change, np.zeros_like(change))
    W.flat[0] = below.flat[0]  # W + c is rounded up, so W + c − c is not W
    case.values |= {"W": W, "change": change}
    merged, restored = matrices(answer(W, change), "merged, restored")
    expect(merged, W + change, "merged", tolerance=0.0)
    require(merged.dtype == restored.dtype == W.dtype, f"keep the dtype, {kind}")
    expect(restored, W, "restored")
    for now, before in zip(restored.flat, W.flat, strict=True):
        require(now == before, f"restored: {before:.9g} came back as {now:.9g}")


def two_changes(case, n_out, n_in):
    """Returns [(B, A), (B, A)] of two low-rank changes of one weight, and weights for them."""
    pairs = []
    for name in "ab":
        r = case.size(f"r {name}", 1, 3)
        pairs.append((case.array(f"B {name}", n_out, r), case.array(f"A {name}", r, n_in)))
    case.values["weight b"] = -case.number("weight b", 0.5, 3)
    return pairs, [case.number("weight a", 0.5, 3), case.values["weight b"]]


def sum_of(pairs, weights):
    """Returns the weighted sum of the changes, (out, in)."""
    return sum(w * B @ A for w, (B, A) in zip(weights, pairs, strict=True))


def side_by_side(pairs, weights_b, weights_a=(1, 1)):
    """Returns (B, A): the B's as columns and the A's as rows, each times its weight."""
    B = np.concatenate([w * B for w, (B, _) in zip(weights_b, pairs, strict=True)], axis=1)
    return B, np.concatenate([w * A for w, (_, A) in zip(weights_a, pairs, strict=True)])


def sums_of_factors(pairs, weights):
    """Returns the weighted sum of the B's and the sum of the A's, padded to one rank."""
    r = max(len(A) for _, A in pairs)
    B = sum(
        w * np.pad(B, ((0, 0), (0, r - len(A))))
        for w, (B, A) in zip(weights, pairs, strict=True)
    )
    return B, sum(np.pad(A, ((0, r - len(A)), (0, 0))) for _, A in pairs)


def product(result):
    """Returns B A of a pair (B, A)."""
    return np.asarray(result[0]) @ np.asarray(result[1])


@check(
    "a combined adapter's B A is the weighted sum of the changes, without cross terms",
    stars=2,
    slips={
        "you added the B's and the A's, which leaves cross terms such as B₁ A₂": (
            sums_of_factors
        ),
        "you put the weight on B and on A, so that it counts twice": (
            lambda pairs, weights: side_by_side(pairs, weights, weights)
        ),
        "you forgot the weights": lambda pairs, weights: side_by_side(pairs, (1, 1)),
        "you forgot the second pair": (
            lambda pairs, weights: (weights[0] * pairs[0][0], pairs[0][1])
        ),
    },
    seen=product,
)
def combined(case, answer):
    """answer(pairs, weights) -> (B, A); pairs [(B, A), …] of one weight, the scale in B."""
    pairs, weights = two_changes(case, case.size("out", 2), case.size("in", 2))
    b, a = matrices(answer(pairs, weights), "B, A")
    rank = sum(len(A) for _, A in pairs)
    n_out, n_in = len(pairs[0][0]), len(pairs[0][1].T)
    fits = b.shape[1] == len(a) and (len(b), len(a.T)) == (n_out, n_in)
    text = f"B {b.shape} and A {a.shape} do not make a change of shape {(n_out, n_in)}"
    require(fits, text)
    require(len(a) <= rank, f"ranks {' + '.join(str(len(A)) for _, A in pairs)} make {rank} "
            f"columns of B at most, got {len(a)}")  # fmt: skip
    expect(product((b, a)), sum_of(pairs, weights), "B A")


def cut(pairs, weights, k):
    """Returns the first k columns of B and rows of A side by side, padded with zeros."""
    B, A = side_by_side(pairs, weights)
    missing = max(k - len(A), 0)
    return np.pad(B, ((0, 0), (0, missing)))[:, :k], np.pad(A, ((0, missing), (0, 0)))[:k]


def singular_terms(pairs, weights, k, left=lambda s: s, right=lambda s: s**0):
    """Returns the first k terms of the SVD of the sum, the singular values to either side."""
    u, s, vt = np.linalg.svd(sum_of(pairs, weights), full_matrices=False)
    return u[:, :k] * left(s[:k]), right(s[:k])[:, None] * vt[:k]


def error_of(b, a, pairs, weights):
    """Returns ‖B A − sum‖, and the singular values of the sum, without an (out, in) matrix."""
    B, A = side_by_side(pairs, weights)
    s = np.linalg.svd(np.linalg.qr(B)[1] @ np.linalg.qr(A.T)[1].T, compute_uv=False)
    left, right = np.hstack([b, -B]), np.vstack([a, A])
    return np.linalg.norm(np.linalg.qr(left)[1] @ np.linalg.qr(right.T)[1].T), s


@check(
    "the best rank-k combination misses the sum by the singular values it leaves out",
    stars=3,
    slips={
        "you kept the first k columns and rows, which are not the best": cut,
        "the singular values are on both sides, so that they count twice": (
            lambda *args: singular_terms(*args, right=lambda s: s)
        ),
        "you put the root of the singular values on one side only": (
            lambda *args: singular_terms(*args, left=np.sqrt)
        ),
        "you left out the singular values": (
            lambda *args: singular_terms(*args, left=lambda s: s**0)
        ),
        "you forgot the weights": lambda pairs, weights, k: singular_terms(pairs, (1, 1), k),
    },
    seen=product,
)
def best_of_rank(case, answer):
    """answer(pairs, weights, k) -> (B, A) with B (out, k) and A (k, in).

    For a large weight, its (out, in) matrix is not to be formed.
    """
    large = case.choice("large", (False, False, True))
    n_out, n_in = (LARGE if large else case.size(name, 2) for name in ("out", "in"))
    pairs, weights = two_changes(case, n_out, n_in)
    k = case.size("k", 1, min(n_out, n_in, 6))
    memory = 6 * n_out * n_in if large else None
    b, a = matrices(answer(pairs, weights, k, memory=memory), "B, A")
    shapes = f"B {b.shape} and A {a.shape}"
    require(b.shape == (n_out, k) and a.shape == (k, n_in), f"of rank k = {k}, got {shapes}")
    error, s = error_of(b, a, pairs, weights)
    expect(error, np.linalg.norm(s[k:]), "‖B A − sum‖")
