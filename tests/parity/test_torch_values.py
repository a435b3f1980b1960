"""Random values drawn without PyTorch are those that PyTorch draws from the same seed."""

import math

import pytest
from hf import torch

from minipeft.engine.backend import np
from minipeft.peft.torch_random import TorchGenerator, bfloat16

seeds = pytest.mark.parametrize("seed", [0, 7, 2**32 - 1, 2**33 + 5])


def theirs(seed):
    return torch.Generator().manual_seed(seed)


@seeds
@pytest.mark.parametrize("kind, rounded", [("float32", np.float32), ("bfloat16", bfloat16)])
def test_uniform_values(seed, kind, rounded):
    ours, generator = TorchGenerator(seed), theirs(seed)
    for shape in ((5, 9), (300, 8), (1, 1)):  # one after the other
        for gain, slope in ((2.0, 0.0), (1 / 3, math.sqrt(5))):
            wanted = torch.empty(shape, dtype=getattr(torch, kind))
            torch.nn.init.kaiming_uniform_(wanted, a=slope, generator=generator)
            found = ours.kaiming(*shape, gain=gain, rounded=rounded)
            assert (found == wanted.float().numpy()).all()


@seeds
@pytest.mark.parametrize("n, k", [(1, 1), (40, 40), (1000, 17)])
def test_a_choice_without_repetition(seed, n, k):
    wanted = torch.randperm(n, generator=theirs(seed))[:k]
    assert (TorchGenerator(seed).choice(n, k) == wanted.numpy()).all()


@seeds
@pytest.mark.parametrize("n", [16, 17, 40, 48])
def test_normal_values_but_for_rounding(seed, n):
    wanted = torch.normal(0.0, 0.7, (n,), generator=theirs(seed))
    assert abs(TorchGenerator(seed).normal(0.7, n) - wanted.numpy()).max() < 2e-6
