"""The autograd engine: arrays, the tape, and operations with their derivatives.

backend      all of NumPy and CuPy comes in here
tensor       Tensor, the tape of edges, and the backward pass
ops          primitive operations: add, matmul, sum, reshape, …
functional   fused operations: linear, layer_norm, attention, cross_entropy, …
optimizer    AdamW, gradient clipping and the learning-rate schedule
"""
