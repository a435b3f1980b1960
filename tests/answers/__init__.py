"""Answers on which the lessons' checks are tried: {check: (a right one, wrong ones …)}."""

import importlib
import pkgutil

ANSWERS = {}
for module in pkgutil.iter_modules(__path__):
    lesson = importlib.import_module(f"{__name__}.{module.name}")
    ANSWERS |= {f"{module.name}.{name}": a for name, a in lesson.ANSWERS.items()}
