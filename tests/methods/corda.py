"""CorDA."""

from dataclasses import replace

from hypothesis import strategies as st

import minipeft as mp
from laws.equations import StartedOnMatrix
from methods.lora import low_rank
from methods.lora_ga import equation
from methods.pissa import TWICE, TWO, theirs
from minipeft.engine.backend import np, to_numpy
from spec import COUNTED, Bug, Row, Spec


def start(method, a, w, x, g):
    """s B₀ A₀ C = the first, or last, r singular triplets of W C, which A and B share evenly"""
    r = len(a.lora_A)
    c = x.T @ x
    c = c / np.diag(c).mean() + 0.01 * np.eye(len(c))
    u, s, vt = np.linalg.svd(w @ c, full_matrices=False)
    part = slice(r) if method.corda_method == "ipm" else slice(len(s) - r, len(s))
    scale = method.lora_alpha / method.r
    change = -scale * a.minus_b0 @ a.a0
    assert np.abs(change @ c - (u[:, part] * s[part]) @ vt[part]).max() <= 1e-9 * s[0]
    assert np.abs((a.minus_b0**2).sum(axis=0) - s[part] / 1.01 / scale).max() <= 1e-9 * s[0]
    assert (a.lora_A == a.a0).all() and (a.lora_B == -a.minus_b0).all()


CORDA = mp.CorDA(r=2, lora_alpha=3.0, target_modules=("q_proj", "o_proj"))
BUGS = (
    Bug("CorDA: the directions of W alone", "xp.linalg.svd(w @ c, full_matrices=False)",
        "xp.linalg.svd(w, full_matrices=False)", 13, CORDA),
    Bug("CorDA: C not taken out again", "xp.linalg.solve(c, vt[part].T * root)",
        "vt[part].T * root", 13, CORDA),
    Bug("CorDA: the last where the first are asked for", 'self.corda_method == "ipm"',
        'self.corda_method != "ipm"', 13, CORDA),
)  # fmt: skip

NAMES, FEW = ["q_proj", "down_proj"], (1, 8)


def prepare(model, config):
    """HF's sums over the inputs of a few tokens, before it starts from them."""
    import peft.tuners.lora.corda as corda
    from hf import hf_logits

    ids, _ = few(model.config.vocab_size)
    corda.preprocess_corda(model, config, lambda: hf_logits(model, ids))


def few(vocab):
    """Ids and labels of a few tokens."""
    return np.random.default_rng(5).integers(0, vocab, (2, *FEW))


def same_start(pair):
    """HF's B₀ A₀, in float32, is ours but for its rounding; then take over how it is shared."""
    mp.start_from_data(pair.ours, [few(pair.config.vocab)])
    wanted = pair.as_ours(pair.hf)
    for path, delta in pair.adapter.deltas.items():
        product = wanted[f"{path}.lora_B"] @ wanted[f"{path}.lora_A"]
        ours = to_numpy(delta.lora_B.data @ delta.lora_A.data)
        off = np.abs(ours - product).max() / np.abs(product).max()
        assert off <= 1e-3, f"{path} starts elsewhere, by {off:.1e}"
    pair.carry()
    for delta in pair.adapter.deltas.values():
        delta.begin(delta.lora_B.data.copy(), delta.lora_A.data.copy())


ROWS = {
    "corda": Row(
        mp.CorDA(r=3, lora_alpha=6.0, target_modules=tuple(NAMES)),
        theirs("corda", prepare, r=3, lora_alpha=6, target_modules=NAMES),
        carry=same_start,
        files=TWO,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.CorDA,
    draw=lambda config: st.builds(
        replace,
        low_rank(config, mp.CorDA, share=2),
        corda_method=st.sampled_from(["ipm", "kpm"]),
    ),
    small=mp.CorDA(2),
    equation=StartedOnMatrix(equation, rank=lambda method: 2 * method.r, start=start),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.CorDA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.CorDA(2), TWICE),),
    wrong=(lambda: mp.CorDA(corda_method="tpm"), lambda: mp.CorDA(init_batches=0)),
    exchanged=True,
)
