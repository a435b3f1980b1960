"""Checks of a learner's answers to the lessons: `lora.forward(my_function)`.

One module per lesson. A check prints ✓ and the law that the answer keeps, or ○ while it is
open; it raises CheckFailed with the law and the smallest example that breaks it.
"""

from .base import CheckFailed, reveal

__all__ = ["CheckFailed", "reveal"]
