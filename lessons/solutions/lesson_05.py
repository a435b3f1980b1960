"""Solutions of lesson 5: the network, its size, its merge, and why relu forbids one.

python lessons/solutions/lesson_05.py        runs the lesson's checks on them
"""

import numpy as np

from minipeft.course import adapters


def bottleneck(h, D, b1, U, b2):
    """Down, relu, up, and the skip connection."""
    hidden = np.maximum(h @ D.T + b1, 0.0)
    return h + hidden @ U.T + b2


def largest_bottleneck(budget, width, places):
    """★ From places · (m (2 width + 1) + width) ≤ budget."""
    return (budget // places - width) // (2 * width + 1)


def merged(W, b, D, b1, U, b2):
    """★★ h + U (D h + b₁) + b₂ with h = W x + b, sorted by powers of x."""
    factor = np.eye(len(W)) + U @ D
    return factor @ W, factor @ b + U @ b1 + b2


def witness(D, b1, U, b2):
    """★★★ So far apart that the first unit is on for one of them and off for the other."""
    h = 1000.0 * D[0]
    return h, -h


if __name__ == "__main__":
    adapters.bottleneck(bottleneck)
    adapters.largest_bottleneck(largest_bottleneck)
    adapters.merged(merged)
    adapters.witness(witness)
