"""Where the bytes of a training step go at 7 billion parameters, by method.

Weights, gradients, optimiser and tape of Llama-2-7B in bfloat16, one row of 512 tokens; QLoRA
holds the base in 4 bits. Computed by `minipeft.ledger`, which a test holds to real arrays.
"""


def measure(fast=False):
    """To come."""
    return {}


def draw(numbers):
    """To come."""
    raise NotImplementedError
