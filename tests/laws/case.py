"""What a law is about: a method on a model; and how bits and numbers are compared."""

from dataclasses import dataclass, replace

import minipeft as mp
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import no_grad
from minipeft.peft.base import Method, base_parameters
from minipeft.peft.data_start import start_from_data
from minipeft.train.fit import Run, Settings
from strategies import batch, model


@dataclass(frozen=True)
class Case:
    """A method on a model: what a law is about."""

    config: mp.Config
    method: Method
    seed: int = 0
    precision: str = "float64"
    rows: int = 3  # of a batch
    tokens: int = 4  # of a row

    def base(self):
        """A fresh copy of the model, every parameter random."""
        return model(self.config, self.seed, self.precision)

    def attached(self, name="a", shaken=True):
        """(model, adapter), started from data if its method does, what trains made random."""
        net = self.base()
        adapter = mp.attach(net, self.method, name, rng=self.seed)
        start_from_data(net, [self.batch()])
        return net, shake(adapter, self.seed) if shaken else adapter

    def batch(self, B=None, T=None):
        """Token ids and labels (B, T)."""
        return batch(self.config, B or self.rows, T or self.tokens, self.seed)

    def in_float32(self):
        return replace(self, precision="float32")


def shake(adapter, seed, size=0.3):
    """Add noise to all that an adapter trains; returns it."""
    rng = np.random.default_rng([seed, 7])
    for p in adapter.parameters():
        p.data += xp.asarray(size * rng.standard_normal(p.shape), dtype=p.dtype)
    return adapter


def logits(net, ids, **options):
    """Logits as a NumPy array."""
    with no_grad():
        return to_numpy(net(ids, **options).data)


def bits(net):
    """The bytes of every base parameter."""
    return {path: to_numpy(p.data).tobytes() for path, p in base_parameters(net)}


def same(a, b, why):
    assert a.shape == b.shape and (a == b).all(), f"{why}: off by {np.abs(a - b).max():.1e}"


def close(a, b, limit, why):
    error = np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)
    assert error <= limit, f"{why}: relative error {error:.1e}, allowed {limit:.0e}"


def steps(net, case, k, seed=0):
    """Take k training steps on random tokens."""
    run = Run(net, Random(case, seed), Settings(steps=8, batch_size=3, lr=0.02, warmup=1))
    while run.done < k:
        run.step()
    return run


class Random:
    """Endless random examples, a batch a function of the step."""

    def __init__(self, case, seed=0):
        self.case, self.seed = case, seed

    def __len__(self):
        return 1

    def batch(self, step, size, seed):
        case = self.case
        return batch(case.config, size, case.tokens, [case.seed, self.seed, step])


def sites(net):
    return [m for _, m in net.named_modules() if hasattr(m, "deltas")]
