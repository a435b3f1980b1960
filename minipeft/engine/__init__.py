"""The tape and the arrays: reverse-mode differentiation on NumPy or CuPy."""
