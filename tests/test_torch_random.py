"""The values that PyTorch draws, pinned; tests/parity/test_torch_values.py compares them."""

from minipeft.engine.backend import np
from minipeft.peft.torch_random import TorchGenerator, bfloat16


def test_pinned_values():
    """Of torch.Generator().manual_seed(0), by PyTorch 2.13."""
    assert TorchGenerator(0).words(2).tolist() == [2357136044, 2546248239]
    assert TorchGenerator(0).uniform(1.0, (2,)).tolist() == [
        -0.007486820220947266,
        0.5364435911178589,
    ]
    assert TorchGenerator(0).choice(10, 10).tolist() == [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]


def test_uniform_values_stay_below_their_bound():
    for rounded in (np.float32, bfloat16):
        values = TorchGenerator(3).uniform(0.25, (5000,), rounded)
        assert values.min() >= -0.25 and values.max() < 0.25
        assert values.dtype == "float32"


def test_bfloat16_takes_the_nearest_and_of_two_the_even_one():
    above = [0, 2**-9, 2**-8, 3 * 2**-8, 2**-8 + 2**-20]
    found = bfloat16([*(1.0 + a for a in above), -3.14159])
    assert found.tolist() == [1.0, 1.0, 1.0, 1.015625, 1.0078125, -3.140625]


def test_normal_values_are_normal():
    values = TorchGenerator(1).normal(2.0, 100, 101)
    assert values.shape == (100, 101)
    assert abs(values.mean()) < 0.06 and abs(values.std() - 2.0) < 0.06
    few = TorchGenerator(1).normal(2.0, 3)
    assert few.shape == (3,) and (few == TorchGenerator(1).normal(2.0, 16)[:3]).all()
