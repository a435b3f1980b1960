"""Checks of the learner's own answers in the lessons: `checks.lora.change(my_function)`.

One module a lesson. Each check prints ✓ and the law that an answer keeps, ○ while it is open,
or raises CheckFailed with the law and the smallest example that breaks it.
"""

from .base import CheckFailed, reveal

__all__ = ["CheckFailed", "reveal"]
