"""The fixtures that the core suite is held to are what PyTorch and HF compute now."""

import json

from record import FIXTURES, everything
from safetensors import safe_open

from methods import ROWS
from minipeft.engine.backend import np


def test_fixtures_are_what_live_torch_gives():
    """Of the rows that were recorded; python tests/parity/record.py records all."""
    with safe_open(FIXTURES, "numpy") as file:
        rows = json.loads(file.metadata()["rows"])
        assert rows.keys() <= ROWS.keys(), "rows that are gone are there; record anew"
        arrays, told = everything(rows)
        assert rows == json.loads(json.dumps(told))
        assert set(file.keys()) == set(arrays)
        for name, a in arrays.items():
            wanted = file.get_tensor(name)
            assert np.allclose(a, wanted, rtol=1e-9, atol=1e-12), name
