"""A gradient check: what `backward` gives against differences of values, both in float64.

Along a direction u, ⟨gradient, u⟩ is compared with the fourth-order central difference of
f(t) = loss(x + t u). At a step of 1e-3 its own error is about 1e-11 for the smooth functions
checked here, so the two agree to 1e-8 and every slip in a derivative shows.
"""

import itertools

from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import Tensor, gradients


def slope(f, h=1e-3):
    """df/dt at 0 by central differences; f(t) is a float and smooth between −2h and 2h."""
    return (8.0 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12.0 * h)


def read_only(a):
    """A copy on the device that nobody may write to, if its library can say so."""
    a = xp.array(a)
    if xp is np:
        a.flags.writeable = False
    return a


def gradients_of(f, arrays, trained, c):
    """(f(*operands), [d Σ c · f / d operand]) with None for operands that are constants.

    Constants are given by turns as Tensors and as arrays. c is read-only, as is every operand.
    """
    operands = []
    for i, a in enumerate(arrays):
        a = read_only(a)
        bare = i not in trained and i % 2 == 0
        operands.append(a if bare else Tensor(a, requires_grad=i in trained))
    y = f(*operands)
    found = gradients(y, c)
    assert found.keys() == {operands[i].node for i in trained}
    return y, [found[x.node] if i in trained else None for i, x in enumerate(operands)]


def subsets(n):
    """Every non-empty set of operands out of n."""
    return [set(s) for k in range(1, n + 1) for s in itertools.combinations(range(n), k)]


def cotangent(f, arrays, rng):
    """A random, read-only gradient to start backward with, of the shape of f's value."""
    return read_only(rng.standard_normal(f(*map(xp.asarray, arrays)).shape))


def check(f, arrays, seed=0, rtol=1e-8, atol=1e-9):
    """AssertionError unless f's derivatives are right, whichever operands need a gradient."""
    rng = np.random.default_rng(seed)
    c = cotangent(f, arrays, rng)
    ways = [rng.uniform(-1, 1, a.shape) for a in arrays]

    def moved(i, t):
        return [a + t * ways[i] if j == i else a for j, a in enumerate(arrays)]

    def difference(i):
        return slope(lambda t: float((f(*map(xp.asarray, moved(i, t))).data * c).sum()))

    expected = [difference(i) for i in range(len(arrays))]
    for trained in subsets(len(arrays)):
        _, found = gradients_of(f, arrays, trained, c)
        for i in trained:
            assert found[i].shape == arrays[i].shape, f"operand {i}: {found[i].shape}"
            along = float((to_numpy(found[i]) * ways[i]).sum())
            error = abs(along - expected[i])
            assert error <= atol + rtol * abs(expected[i]), (
                f"operand {i} of {sorted(trained)}: {along} along a direction, "
                f"differences say {expected[i]}"
            )
