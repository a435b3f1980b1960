"""EVA: LoRA whose A starts from the main directions of what its layer reads.

    f(x) + (α / r) B A x            A: (r, in) the first r rows of Vᵀ, X = U Σ Vᵀ   B: zero

The rows of X (n, in) are the layer's inputs at n tokens of the data, those that have a label.
The columns of V are the eigenvectors of Xᵀ X = Σ x xᵀ, a sum that is taken batch by batch, so
that no batch is kept. They are orthonormal, and no other r directions hold as much of Σ ‖x‖².
B = 0, so this start changes nothing. Attached, A is LoRA's; before the first update `fit` makes
A from its first `init_batches` batches. Trains r (in + out) parameters a target. Merges
exactly: W + (α / r) B A. In a file it is a LoRA.

LoRA's random A passes on a random part of the input, and B's gradient, (α / r) Σ g xᵀ Aᵀ with
g the gradient of the output, is made of that part alone. EVA's A passes on as much as r
directions can: the paper proves that this makes B's expected gradient as large as possible.

Paischer et al. 2024, section 3, arXiv:2410.07170. There, and in HF PEFT, batches are read until
the directions settle, by an incremental SVD that keeps a few directions; here their number is
fixed, and the sum is exact. HF PEFT subtracts the mean input from each x; so does `centered`.
Both can also move ranks between layers, up to ρ r for those that explain more of their inputs;
here each target keeps its r, which is their ρ = 1.
"""

from dataclasses import dataclass

from ...engine.backend import np, xp
from ...engine.functional import IGNORE
from ...engine.tensor import no_grad, value
from ...options import option
from ..data_start import check_finite, first_batches, probing, untrained
from .lora import LoRA


@dataclass(frozen=True)
class EVA(LoRA):
    """LoRA whose A starts from the inputs of its layer."""

    init_batches: int = option(8, at_least=1)
    centered: bool = False

    name = "eva"
    idea = "A starts from the main directions of what its layer reads"
    claim = "learning", "lora"
    paper = "Paischer et al. 2024, arXiv:2410.07170"
    learning_rate = 0.03
    embeds = False  # the inputs of the token table are tokens, not vectors

    def export_form(self):
        return self.as_lora()

    def before_training(self, adapter, model, batches):
        if deltas := untrained(adapter):
            sums = sums_of_inputs(model, deltas, first_batches(batches, self.init_batches))
            starts = {path: self.directions(path, *sums[path]) for path in deltas}
            for path, delta in deltas.items():
                delta.lora_A.data[...] = starts[path][: len(delta.lora_A)]

    def directions(self, path, n, total, squares):
        """Orthonormal directions (in, in) as rows, those first that hold most of the inputs."""
        check_finite(path, squares)
        if self.centered:
            squares = squares - total[:, None] * total / n
        _, vectors = xp.linalg.eigh(squares)  # in columns, the smallest eigenvalue first
        return vectors.T[::-1]


def sums_of_inputs(model, paths, batches):
    """{path: (n, Σ x, Σ x xᵀ)} of what modules read at the n labelled tokens, in float64."""
    sums, labelled = dict.fromkeys(paths, (0, 0.0, 0.0)), None

    def noting(path):
        def probe(f, x):
            a = value(x)[:, -labelled.shape[1] :]  # without virtual tokens before the sequence
            a = a[xp.asarray(labelled)].astype("float64")  # (n, in)
            n, total, squares = sums[path]
            sums[path] = n + len(a), total + a.sum(axis=0), squares + a.T @ a
            return f(x)

        return probe

    with probing(model, {path: noting(path) for path in paths}), no_grad():
        for ids, labels in batches:
            labelled = np.asarray(labels) != IGNORE
            model(ids)
    return sums
