"""What PyTorch, transformers and HF PEFT computed once, computed again without them.

tests/parity/record.py wrote the numbers, in float64; tests/parity holds them to live PyTorch.
"""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import no_grad
from strategies import batch

FIXTURES = Path(__file__).parent / "fixtures" / "parity.safetensors"
with safe_open(FIXTURES, "numpy") as file:
    ARRAYS = {name: file.get_tensor(name) for name in file.keys()}
    ROWS = json.loads(file.metadata()["rows"])
every_row = pytest.mark.parametrize("row", ROWS)


def split(numbers, parameters):
    """The arrays of parameters' shapes that were joined to one, in their order."""
    ends = np.cumsum([p.data.size for p in parameters])
    assert ends[-1] == len(numbers)
    parts = np.split(numbers, ends[:-1])
    return [a.reshape(p.shape) for a, p in zip(parts, parameters, strict=True)]


def restored(row):
    """(model, adapter) with the numbers of a row."""
    about = ROWS[row]
    with mp.dtype("float64"):
        net = mp.Transformer(mp.Config.from_dict(about["config"]), rng=0)
    fill(net.parameters(), ARRAYS[f"base/{about['base']}"])
    adapter = mp.attach(net, mp.METHODS[about["method"]].from_dict(about["options"]))
    fill(adapter.parameters(), ARRAYS[f"{row}/trained"])
    return net, adapter


def fill(parameters, numbers):
    for p, a in zip(parameters, split(numbers, parameters), strict=True):
        p.data = xp.asarray(a.copy())


def assert_close(ours, theirs, limit, least=0.0):
    off = np.abs(to_numpy(ours) - theirs).max() / max(np.abs(theirs).max(), least)
    assert off <= limit, f"relative error {off:.1e}"


@every_row
def test_logits_and_gradients(row):
    net, adapter = restored(row)
    ids, labels = batch(net.config, B=2, T=5)
    with no_grad():
        assert_close(net(ids).data, ARRAYS[f"{row}/logits"], 1e-12)
    net.loss(ids, labels).backward()
    wanted = split(ARRAYS[f"{row}/gradient"], adapter.parameters())
    largest = max(np.abs(g).max() for g in wanted)
    for p, g in zip(adapter.parameters(), wanted, strict=True):
        assert_close(p.grad, g, 1e-11, 1e-2 * largest)  # one that vanishes is rounding


@every_row
def test_losses_of_twenty_steps(row):
    net, _ = restored(row)
    ids, labels = batch(net.config, 11, 7)
    lengths = np.random.default_rng(3).integers(2, 8, 11)
    labels = np.where(np.arange(7) < lengths[:, None], labels, -100)
    how = dict(warmup=5, clip=ROWS[row]["clip"], weight_decay=0.1)
    ours = mp.fit(net, mp.Examples(ids, labels), 20, 4, 0.02, **how).loss
    assert_close(np.array(ours), ARRAYS[f"{row}/losses"], 1e-10)


def test_fixtures_are_small_and_of_both_shapes():
    assert FIXTURES.stat().st_size < 300_000
    assert {about["config"]["norm"] for about in ROWS.values()} == {"layer", "rms"}
    assert all(a.dtype == "float64" for a in ARRAYS.values())
