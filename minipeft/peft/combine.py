"""Combines adapters that were trained separately into one LoRA.

    linear   ΔW = Σ wᵢ ΔWᵢ                            exactly, at whatever rank it has
    cat      B = [w₁ s₁ B₁ …], A = [A₁ ; …]           the same change, of rank Σ rᵢ; LoRA only
    svd      the best approximation of Σ wᵢ ΔWᵢ       of a rank, by default the largest rᵢ
    ties     keep the largest share `density` of each ΔWᵢ; elect for each weight the sign with
             more mass in Σ wᵢ ΔWᵢ; take the mean of the wᵢ ΔWᵢ that have this sign
    dare     keep a random share `density` of each ΔWᵢ, divided by density; then linear

All act on the changes ΔW themselves, so every method that changes only Linear weights can take
part. (Adding up the A's and the B's separately, as is often done, gives another sum: it
contains the cross terms Bᵢ Aⱼ.) A single adapter of weight 1 is copied bit for bit, whatever
its method. The Combination says how far its ΔW is from Σ wᵢ ΔWᵢ; ties and dare differ from it
on purpose.

Ilharco et al. 2022 (task arithmetic), arXiv:2212.04089; Yadav et al. 2023 (TIES), section 4,
arXiv:2306.01708; Yu et al. 2023 (DARE), section 3, arXiv:2311.03099
"""

import copy
import math

from ..engine.backend import dtype, np, xp
from ..errors import to_python, unknown
from ..model.layers import Parameter
from ..model.quantize import relative_error
from ..model.transaction import all_or_nothing
from .attach import check_name, install, prepare, use
from .base import Adapter, base_parameters, find, precision
from .merge import merged_parameters
from .methods.lora import LoRA, LoRADelta, leading
from .targets import linears, targeted

KINDS = ("linear", "cat", "svd", "ties", "dare")


class Combination(Adapter):
    """An Adapter made of others, and how far its change is from their weighted sum."""

    def __init__(self, name, method, deltas, kind, weights, errors, error, copies=()):
        super().__init__(name, method, deltas, dict(copies))
        self.kind, self.weights = kind, weights  # {name: weight}
        self.errors = errors  # {path: ‖ΔW − Σ wᵢ ΔWᵢ‖ / ‖Σ wᵢ ΔWᵢ‖, Frobenius norms}
        self.error = error  # the same of all sites taken together

    def __repr__(self):
        parts = " + ".join(f"{w:g} · {name}" for name, w in self.weights.items())
        return (
            f"Combination({self.name!r}, {self.kind} of {parts}: {self.count:,} parameters, "
            f"{self.error:.1e} off the weighted sum, relative, in the Frobenius norm)"
        )


@all_or_nothing
def combine(model, names, weights, kind="linear", name=None, *, rank=None, density=None, rng=0):
    """Combines several adapters into one, attaches and uses it. Returns the Combination.

    At most `rank` singular values of each ΔW are kept. `density` is the share that ties and
    dare keep (default: 0.5, or 1 for a single adapter), `rng` a seed or Generator for dare.
    Raises ValueError, and changes nothing, if an adapter changes more than Linear weights, as a
    prefix does; such an adapter can only be copied, that is combined alone with weight 1.
    """
    names, weights, rank, density = map(to_python, (names, weights, rank, density))
    weights = check(names, weights, kind, rank, density)
    name = "+".join(names) if name is None else name
    check_name(model, name)
    parts = [find(model, part) for part in names]
    if list(weights.values()) == [1.0] and rank is None and density is None:
        deltas, copies = duplicates(model, parts[0])
        both = Combination(name, parts[0].method, deltas, kind, weights, {}, 0.0, copies)
    else:
        both = combined(model, parts, weights, kind, name, rank, density, rng)
    install(model, both)
    use(model, name)
    return both


def check(names, weights, kind, rank, density):
    """The arguments of `combine` as {name: weight}; ValueError for those that make no sense."""
    if kind not in KINDS:
        raise ValueError(unknown("kind of combination", kind, KINDS))
    if isinstance(names, str) or not names or len(set(names)) != len(names):
        raise ValueError(f"combine takes a list of different names, got {names!r}")
    if len(weights) != len(names) or not all(math.isfinite(w) for w in weights):
        raise ValueError(f"{len(names)} adapters need as many finite weights, got {weights!r}")
    if rank is not None and (kind == "cat" or type(rank) is not int or rank < 1):
        raise ValueError(f"rank is a whole number ≥ 1, and none for cat; got {rank!r}")
    if density is not None and (kind not in ("ties", "dare") or not 0 < density <= 1):
        raise ValueError(f"density lies in (0, 1], for ties and dare only; got {density!r}")
    return {name: float(w) for name, w in zip(names, weights, strict=True)}


def duplicates(model, adapter):
    """Copies of an adapter's (deltas, copies) that share nothing with it but the base."""
    own = {id(m) for delta in adapter.deltas.values() for _, m in delta.named_modules()}
    base = [m for _, m in model.named_modules() if id(m) not in own]
    base += [p for _, p in base_parameters(model)]
    return copy.deepcopy((adapter.deltas, adapter.copies), {id(part): part for part in base})


def combined(model, parts, weights, kind, name, rank, density, rng):
    """The Combination of several adapters, a LoRA that is not attached yet."""
    changes, rng = (
        [change(model, part) for part in parts],
        np.random.default_rng(to_python(rng)),
    )
    density = density or (1.0 if len(parts) == 1 else 0.5)
    wanted, factors = {}, {}
    for path, layer in linears(model).items():
        if not any(path in c for c in changes):
            continue
        own = [c.get(path, xp.zeros(layer.weight.shape)) for c in changes]
        wanted[path] = sum(w * c for w, c in zip(weights.values(), own, strict=True))
        if kind == "cat":
            factors[path] = stacked(parts, weights, path)
            continue
        most = rank or (max(map(matrix_rank, own)) if kind == "svd" else min(own[0].shape))
        matrix = wanted[path]
        if kind in ("ties", "dare"):
            mix = ties if kind == "ties" else dare
            matrix = mix(own, weights.values(), density, rng)
        factors[path] = leading(matrix, max(1, min(most, matrix_rank(matrix))))
    made = {path: b @ a for path, (b, a) in factors.items()}
    errors = {path: relative_error(made[path], wanted[path]) for path in made}
    everything = [xp.concatenate([m.reshape(-1) for m in d.values()]) for d in (made, wanted)]
    error = relative_error(*everything)
    lora = as_lora(model, factors, name)
    return Combination(name, lora.method, lora.deltas, kind, weights, errors, error)


def change(model, adapter):
    """ΔW of every Linear that an adapter changes, {path: array}, in float64."""
    layers, changes = linears(model), {}
    base = dict(base_parameters(model))
    try:
        after = merged_parameters(model, adapter)
    except ValueError as reason:
        raise ValueError(f"{reason}; it cannot be added up with others") from None
    for key, p in after.items():
        path, _, attribute = key.rpartition(".")
        old = base.get(key, model.wte.weight)  # which a tied head has until it is merged into
        new, old = (q.data.astype("float64") for q in (p, old))
        if path in layers and attribute == "weight":
            delta = adapter.deltas.get(path)
            changes[path] = xp.matmul(*factors_of(delta)) if has_factors(delta) else new - old
        elif (new != old).any():
            raise ValueError(
                f"{adapter.name!r} changes {key}, which a LoRA of Linear weights cannot; "
                "combine others"
            )
    return changes


def has_factors(delta):
    """Whether a Delta is plain LoRA, s B A."""
    return type(delta) is LoRADelta


def factors_of(delta):
    """(s B, A) of a LoRA, in float64."""
    b, a = (p.data.astype("float64") for p in (delta.lora_B, delta.lora_A))
    return b * delta.scaling, a


def stacked(parts, weights, path):
    """(b, a) of the LoRAs at a path side by side, which is their weighted sum."""
    pairs = []
    for part in parts:
        delta = part.deltas.get(path)
        if delta is not None and not has_factors(delta):
            raise ValueError(
                f"{part.name!r} has no factors B and A to put side by side; use kind='linear'"
            )
        if delta is not None:
            b, a = factors_of(delta)
            pairs.append((weights[part.name] * b, a))
    return xp.concatenate([b for b, _ in pairs], 1), xp.concatenate([a for _, a in pairs])


def ties(changes, weights, density, rng=None):
    """TIES: trims each change, elects a sign for each weight, averages what agrees with it."""
    changes = [w * trimmed(c, density) for w, c in zip(weights, changes, strict=True)]
    sign = xp.sign(sum(changes))
    agreeing = [xp.where(xp.sign(c) == sign, c, 0.0) for c in changes]
    return sum(agreeing) / xp.maximum(sum(c != 0 for c in agreeing), 1)


def trimmed(matrix, density):
    """A matrix with its largest share `density` of elements, and zeros for the others."""
    keep = math.ceil(density * matrix.size)
    least = xp.partition(xp.abs(matrix).reshape(-1), matrix.size - keep)[matrix.size - keep]
    return xp.where(xp.abs(matrix) >= least, matrix, 0.0)


def dare(changes, weights, density, rng):
    """DARE: drops elements at random, divides the others by the share kept, then adds up."""
    kept = [c * xp.asarray(rng.random(c.shape) < density) / density for c in changes]
    return sum(w * c for w, c in zip(weights, kept, strict=True))


def matrix_rank(matrix):
    """The number of singular values that are larger than rounding."""
    return int(xp.linalg.matrix_rank(matrix))


def as_lora(model, factors, name):
    """An Adapter of plain LoRA from factors {path: (b, a)}, padded with zeros to one rank."""
    layers = linears(model)
    r = max(len(a) for _, a in factors.values())
    most = {path: min(layers[path].weight.shape) for path in factors}
    ranks = {path: min(r, most[path]) for path in factors}
    for path, (_, a) in factors.items():  # as can be with cat
        if len(a) > most[path]:
            raise ValueError(
                f"side by side they have rank {len(a)} at {path}, which has {most[path]}; "
                "use kind='linear'"
            )
    short = tuple(sorted({path.split(".")[-1] for path in factors}))
    same = targeted(layers, short).keys() == factors.keys()
    patterns = {path: n for path, n in ranks.items() if n != r}
    more = {"rank_pattern": patterns, "alpha_pattern": patterns} if patterns else {}
    method = LoRA(r, float(r), target_modules=short if same else tuple(factors), **more)
    lora = prepare(model, method, name)
    with dtype(precision(model)):
        for path, (b, a) in factors.items():
            delta, missing = lora.deltas[path], ranks[path] - len(a)
            delta.lora_B = Parameter(xp.pad(b, ((0, 0), (0, missing))))
            delta.lora_A = Parameter(xp.pad(a, ((0, missing), (0, 0))))
    return lora
