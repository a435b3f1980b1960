"""LoRA-GA."""

import warnings

import minipeft as mp
from laws.case import close
from laws.equations import StartedOnMatrix
from methods.lora import changed, low_rank
from methods.pissa import TWICE, TWO, theirs
from minipeft.engine.backend import np, to_numpy
from minipeft.peft.data_start import start_from_data
from spec import COUNTED, Bug, Row, Spec


def equation(method, a, w):
    """W − s B₀ A₀ + s B A"""
    scale = method.lora_alpha / method.r
    return changed(scale, a, w + scale * a.minus_b0 @ a.a0)


def start(method, a, w, x, g):
    """B₀ B₀ᵀ G + G A₀ᵀ A₀ = c² (the best approximation of G by rank 2 r), A₀ the first half"""
    r, c2 = len(a.lora_A), len(a.lora_B) ** 0.5 / method.stable_gamma
    assert (a.lora_A == a.a0).all() and (a.lora_B == -a.minus_b0).all()
    close(a.a0 @ a.a0.T, c2 * np.eye(r), 1e-11, "A₀ A₀ᵀ")
    close(a.minus_b0.T @ a.minus_b0, c2 * np.eye(r), 1e-11, "B₀ᵀ B₀")
    if g is not None:
        u, s, vt = np.linalg.svd(g, full_matrices=False)
        best = (u[:, : 2 * r] * s[: 2 * r]) @ vt[: 2 * r]
        step = a.minus_b0 @ a.minus_b0.T @ g + g @ a.a0.T @ a.a0
        assert np.abs(step - c2 * best).max() <= 1e-9 * c2 * np.abs(g).max()
        close(((g @ a.a0.T) ** 2).sum(), c2 * (s[:r] ** 2).sum(), 1e-9, "‖G A₀ᵀ‖²")


GA = mp.LoRAGA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("LoRA-GA: A₀ and B₀ of the same directions",
        "c * (u * signs)[:, r : 2 * r]", "c * (u * signs)[:, :r]", 13, GA),
    Bug("LoRA-GA: B₀ A₀ not taken off W", "self.a0[...], self.minus_b0[...] = a, -b",
        "self.a0[...], self.minus_b0[...] = a, 0.0 * b", 13, GA, module="peft.methods.pissa"),
    Bug("LoRA-GA: γ forgotten", "len(g) ** 0.25 / self.stable_gamma**0.5", "len(g) ** 0.25",
        13, GA),
)  # fmt: skip

NAMES, FEW = ["q_proj", "down_proj"], (1, 8)  # of so few tokens HF's truncated SVD is exact


def prepare(model, config):
    """HF's gradients of a few tokens, before it starts from them."""
    from hf import hf_logits, hf_loss
    from peft.tuners.lora import LoraGAConfig, preprocess_loraga

    config.lora_ga_config = LoraGAConfig()
    ids, labels = few(model.config.vocab_size)
    with warnings.catch_warnings():  # that its first layer's input has no gradient
        warnings.simplefilter("ignore", UserWarning)
        preprocess_loraga(
            model, config, lambda: hf_loss(hf_logits(model, ids), labels).backward()
        )


def few(vocab):
    """Ids and labels of a few tokens."""
    return np.random.default_rng(5).integers(0, vocab, (2, *FEW))


def same_start(pair):
    """HF's directions, in float32, are ours but for signs and lengths; then take them over."""
    start_from_data(pair.ours, [few(pair.config.vocab)])
    ours = dict(pair.adapter.named_parameters())
    for path, wanted in pair.as_ours(pair.hf).items():
        a, b = to_numpy(ours[path].data), wanted
        axis = 1 if path.endswith("lora_A") else 0
        a, b = (m / np.linalg.norm(m, axis=axis, keepdims=True) for m in (a, b))
        off = np.abs(np.abs((a * b).sum(axis=axis)) - 1.0).max()
        assert off <= 1e-3, f"{path} starts elsewhere, by {off:.1e}"
    pair.carry()
    for delta in pair.adapter.deltas.values():
        delta.begin(delta.lora_B.data.copy(), delta.lora_A.data.copy())


ROWS = {
    "lora-ga": Row(
        mp.LoRAGA(r=3, lora_alpha=6.0, target_modules=tuple(NAMES)),
        theirs("lora_ga", prepare, r=3, lora_alpha=6, target_modules=NAMES),
        carry=same_start,
        files=TWO,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.LoRAGA,
    draw=lambda config: low_rank(config, mp.LoRAGA, share=2),
    small=mp.LoRAGA(2),
    equation=StartedOnMatrix(equation, rank=lambda method: 2 * method.r, start=start),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.LoRAGA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.LoRAGA(2), TWICE),),
    wrong=(lambda: mp.LoRAGA(stable_gamma=0.0), lambda: mp.LoRAGA(init_batches=0)),
    exchanged=True,
)
