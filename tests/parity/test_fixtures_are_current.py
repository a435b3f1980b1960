"""The fixtures that the core suite is held to are what PyTorch and HF compute now."""

import json

from record import FIXTURES, everything
from safetensors import safe_open

from minipeft.engine.backend import np


def test_fixtures_are_what_live_torch_gives():
    arrays, told = everything()
    with safe_open(FIXTURES, "numpy") as file:
        assert json.loads(file.metadata()["rows"]) == json.loads(json.dumps(told))
        assert set(file.keys()) == set(arrays)
        for name, a in arrays.items():
            wanted = file.get_tensor(name)
            assert np.allclose(a, wanted, rtol=1e-9, atol=1e-12), name
