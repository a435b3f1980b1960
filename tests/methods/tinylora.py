"""TinyLoRA."""

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import OnMatrix
from minipeft.engine.backend import np
from spec import COUNTED, LLAMA_7B, Bug, Files, Row, Spec
from strategies import DROPOUTS, targets
from theirs import with_peft


def equation(method, a, w):
    """W + U S (Σᵢ vᵢ Pᵢ) Vᵀ, or with √S on both sides"""
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    u, s, vt = u[:, : method.r], s[: method.r], vt[: method.r]
    signs = [np.sign(row[np.abs(row).argmax()]) for row in vt]  # the largest is positive
    u, vt = u * signs, np.diag(signs) @ vt
    (v,) = [array for name, array in vars(a).items() if name.startswith("tinylora_v")]
    middle = sum(number * p for number, p in zip(v, a.p, strict=True))
    if method.balanced:
        middle = middle * np.sqrt(s)  # √S R √S = S (S^-½ R √S)
        return w + u @ np.diag(np.sqrt(s)) @ middle @ vt
    return w + u @ np.diag(s) @ middle @ vt


@st.composite
def drawn(draw, config):
    """A TinyLoRA of any rank, its targets tied or not."""
    names, most = draw(targets(config))
    return mp.TinyLoRA(
        draw(st.integers(1, min(most, 3))),
        draw(st.integers(1, 9)),
        draw(st.sampled_from([0.0, 0.4, 0.5, 1.0])),
        names,
        draw(DROPOUTS),
        balanced=draw(st.booleans()),
    )


SQUARE = mp.TinyLoRA(2, 3, 0.5, ("q_proj", "o_proj"))
BUGS = (
    Bug("TinyLoRA: S missing", "(vt, u * s)", "(vt, u)", 13, SQUARE),
    Bug("TinyLoRA: Σ vᵢ Pᵢ transposed in the merge", "self.b @ self.middle().data @ self.a",
        "self.b @ self.middle().data.T @ self.a", 5, SQUARE),
    Bug("TinyLoRA: no target shares its v",
        "vectors.setdefault(groups[i], Parameter(np.zeros(self.u)))",
        "Parameter(np.zeros(self.u))", 3, SQUARE),
)  # fmt: skip

NAMES = ["q_proj", "v_proj", "down_proj"]


def carry(pair):
    """The singular vectors, whose signs and last bits, and P, whose last bits are PyTorch's."""
    from hf import hf_module, rounded

    modules = dict(pair.theirs.base_model.model.named_modules())
    for path, delta in pair.adapter.deltas.items():
        module = modules[hf_module(path, pair.config)]
        for name in "abp":
            array = getattr(module, f"tinylora_{name.upper()}")["default"]
            array.copy_(rounded(array, pair.ours))
            setattr(delta, name, array.numpy().astype(delta.p.dtype))


def named(*groups):
    """HF's names of the vectors: it first finds all of them at the first target."""
    first = "model.layers.0.self_attn.q_proj.tinylora_v"
    return {
        f"blocks.{path}_proj.tinylora_v_{i}": f"{first}.{i}" for i, path in enumerate(groups)
    }


FREE = named("0.attn.q", "0.attn.v", "1.attn.q", "1.attn.v")
TIED = named("0.attn.q", "0.mlp.down", "1.attn.v")
GOES = Files(same=False, imported=False)  # there, which reads its frozen arrays; see `carry`
SPEC = Spec(
    mp.TinyLoRA,
    draw=drawn,
    small=mp.TinyLoRA(2, 5, balanced=True),
    equation=OnMatrix(equation, rank=lambda method: method.r),
    bugs=BUGS,
    rows={
        "tinylora": Row(
            mp.TinyLoRA(3, 5, balanced=True),
            with_peft("TinyLoraConfig", r=3, u=5, target_modules=NAMES[:2]),
            names=FREE,
            recorded=False,  # HF computes A and B in float32
            carry=carry,
            files=GOES,
        ),
        "tinylora, tied": Row(
            mp.TinyLoRA(2, 7, 0.5, tuple(NAMES), balanced=True),
            with_peft("TinyLoraConfig", r=2, u=7, weight_tying=0.5, target_modules=NAMES),
            names=TIED,
            recorded=False,
            carry=carry,
            files=GOES,
        ),
    },
    counts=(
        (mp.TinyLoRA(2, 5), COUNTED, 4 * 5),
        (mp.TinyLoRA(2, 5, 0.5), COUNTED, 2 * 5),
        (mp.TinyLoRA(2, 13, 1.0, "all-linear"), LLAMA_7B, 13),
    ),
    saved=(
        (
            mp.TinyLoRA(2, 5),
            {f"attn.{n}_proj.tinylora_v_{i}": (5,) for i, n in enumerate("qv")},
        ),
        (mp.TinyLoRA(2, 5, 1.0), {"attn.q_proj.tinylora_v_0": (5,)}),
    ),
    wrong=(
        lambda: mp.TinyLoRA(0),
        lambda: mp.TinyLoRA(u=0),
        lambda: mp.TinyLoRA(weight_tying=1.5),
    ),
    exchanged=True,
)
