"""Where the bytes of a training step go at 7 billion parameters, by method.

Weights, gradients, optimiser and tape of Llama-2-7B in bfloat16, one row of 512 tokens; QLoRA
holds the base in 4 bits. Computed by `minipeft.ledger`, which a test holds to real arrays.
"""

from .. import presets
from ..ledger import COMPARED, compared
from ..ledger_plot import bars


def measure(fast=False):
    """{method: its Ledger as a JSON object}; it takes a second, fast or not."""
    return compared(presets.config("llama-2-7b"), batch=1, seq=512, policy="bf16")


def draw(numbers):
    """Stacked bars, a method each."""
    return bars({name: numbers[name] for name in COMPARED})
