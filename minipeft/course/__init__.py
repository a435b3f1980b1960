"""Checks of a learner's answers to the lessons: `lora.forward(my_function)`.

One module per lesson. A check prints ✓ and the law that the answer keeps, or ○ and what is
asked while it is open; it raises CheckFailed with the law and the smallest example that breaks
it. `minipeft mark` runs the same checks on a file that a student has handed in.
"""

from .base import CheckFailed, Result
from .predictions import reveal

LESSONS = (  # the module of each lesson, by its number
    "tour", "autograd", "memory", "freezing", "lora", "adapters", "prompts", "selective",
    "comparison", "swapping", "data", "quantization", "family", "capstone",
)  # fmt: skip

__all__ = ["LESSONS", "CheckFailed", "Result", "reveal"]
