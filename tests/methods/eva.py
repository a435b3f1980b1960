"""EVA."""

import minipeft as mp
from laws.case import close
from laws.equations import StartedOnMatrix
from methods.lora import FACTORS, equation, low_rank
from minipeft.engine.backend import np, to_numpy
from minipeft.peft.data_start import start_from_data
from spec import COUNTED, Bug, Row, Spec


def start(method, a, w, x, g):
    """A's rows are orthonormal, and as much of X lies along them as r directions can hold"""
    x = x - x.mean(axis=0) if method.centered else x
    r = len(a.lora_A)
    close(a.lora_A @ a.lora_A.T, np.eye(r), 1e-11, "A Aᵀ")
    most = (np.linalg.svd(x, compute_uv=False)[:r] ** 2).sum()
    close(((x @ a.lora_A.T) ** 2).sum(), most, 1e-9, "‖X Aᵀ‖²")
    assert (a.lora_B == 0).all()


EVA = mp.EVA(r=2)
BUGS = (
    Bug("EVA: the smallest directions", "return vectors.T[::-1]", "return vectors.T", 13, EVA),
    Bug("EVA: of padding too", "np.asarray(labels) != IGNORE", "np.asarray(labels) < 99",
        13, EVA),
    Bug("EVA: what was trained starts anew",
        "return {path: delta for (path, delta), is_trained in items if not is_trained}",
        "return {path: delta for (path, delta), is_trained in items}",
        13, EVA, module="peft.data_start"),
)  # fmt: skip


NAMES, FEW = ["q_proj", "down_proj"], (1, 6)  # of so few tokens HF's truncated SVD is exact


def theirs(**options):
    """HF's, started from one batch again and again, until it sees that nothing changes."""

    def put(model):
        import peft
        import torch

        config = peft.LoraConfig(
            init_lora_weights="eva", eva_config=peft.EvaConfig(rho=1.0), **options
        )
        theirs = peft.get_peft_model(model, config).to(model.dtype)
        ids, labels = map(torch.tensor, few(model.config.vocab_size))
        batch = {"input_ids": ids, "labels": labels}
        peft.initialize_lora_eva_weights(theirs, [batch], show_progress_bar=False)
        return theirs

    return put


def few(vocab):
    """Ids and labels of a few tokens."""
    return np.random.default_rng(5).integers(0, vocab, (2, *FEW))


def same_start(pair):
    """HF's A, in float32, is ours but for signs and rounding; then take it over."""
    start_from_data(pair.ours, [few(pair.config.vocab)])
    for path, wanted in pair.as_ours(pair.hf).items():
        if path.endswith("lora_A"):
            ours = dict(pair.adapter.named_parameters())[path].data
            off = np.abs(np.abs(to_numpy(ours) @ wanted.T) - np.eye(len(wanted))).max()
            assert off <= 1e-3, f"{path} starts elsewhere, by {off:.1e}"
    pair.carry()


ROWS = {
    "eva": Row(
        mp.EVA(r=3, lora_alpha=3.0, target_modules=tuple(NAMES), centered=True),
        theirs(r=3, lora_alpha=3, target_modules=NAMES),
        carry=same_start,
        recorded=False,
    ),
}

SPEC = Spec(
    mp.EVA,
    draw=lambda config: low_rank(config, mp.EVA),
    small=mp.EVA(2),
    equation=StartedOnMatrix(equation, rank=lambda method: method.r, start=start),
    bugs=BUGS,
    rows=ROWS,
    counts=((mp.EVA(2), COUNTED, 2 * (2 * 16 + 2 * 12)),),
    saved=((mp.EVA(2), FACTORS),),
    wrong=(
        lambda: mp.EVA(init_batches=0),
        lambda: mp.EVA(2, target_modules="wte").count(COUNTED),
    ),
    exchanged=True,
)
