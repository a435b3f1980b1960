"""The questions on lessons 0 to 4: counting, the tape, memory, freezing, LoRA."""

import functools

import numpy as np

import minipeft as mp
from minipeft.engine.functional import linear
from minipeft.engine.tensor import Tensor
from minipeft.lab import presets
from minipeft.lab.pretrain import BACKBONE
from minipeft.lab.saved_tensors import tape_arrays

from .question import question

EVERYWHERE = "all-linear"
STEP = {"batch": 32, "seq": 24}  # a training step of the small model
SMALL = dict(vocab=11, context=16, width=8, layers=2, heads=2, ffn=12)
IDS = np.array([[1, 2, 3, 4, 5]])


@functools.cache
def ledgers_of_llama():
    """The ledgers of one step of Llama-2-7B, 512 tokens in bfloat16: all of it, and LoRA."""
    llama, step = presets.config("llama-2-7b"), dict(batch=1, seq=512, policy="bf16")
    lora = mp.LoRA(r=16, target_modules=("q_proj", "v_proj"))
    return mp.ledger(llama, **step), mp.ledger(llama, lora, **step)


def small_model():
    """A small transformer with random weights."""
    return mp.Transformer(mp.Config.gpt2(**SMALL), rng=0)


@question(
    0,
    "LoRA of rank {r} is put on one matrix of {n_out} × {n_in}. How many parameters train?",
    answer="{count:,}",
    wrong=("{whole:,}", "{one_side:,}", "{squared:,}"),
    why="A is (r, in) and B is (out, r): r (in + out) numbers. The matrix itself has "
    "{whole:,}.",
)
def lora_on_one_matrix():
    r, layers = 2, BACKBONE.layers
    n_out, n_in = BACKBONE.linear_shapes["blocks.0.mlp.up_proj"]
    count = mp.LoRA(r=r, target_modules="up_proj").count(BACKBONE) // layers
    assert count == r * (n_in + n_out)
    return dict(
        r=r, n_out=n_out, n_in=n_in, count=count, whole=n_out * n_in, one_side=r * n_out,
        squared=r * r * (n_in + n_out),
    )  # fmt: skip


@question(
    0,
    "After training with LoRA the model has forgotten most of what it knew. How do you "
    "get the old model back, and how near is it to what it was?",
    answer="Switch the adapter off, or detach it. The old model is back bit for bit.",
    why="Training writes into A and B only. Here an adapter with random A and B changed "
    "the logits by up to {changed:.2f}, and once it was off by {left}.",
)
def switched_off():
    model = small_model()
    before = model(IDS).data
    adapter = mp.attach(model, mp.LoRA(r=2, target_modules=EVERYWHERE))
    for p in adapter.parameters():
        p.data[...] = np.random.default_rng(0).standard_normal(p.shape)
    changed = np.abs(model(IDS).data - before).max()
    with mp.disabled(model):
        left = np.abs(model(IDS).data - before).max()
    mp.detach(model)
    assert changed > 0.01 and left == 0 and (model(IDS).data == before).all()
    return dict(changed=float(changed), left=int(left))


@question(
    1,
    "LoRA of rank 8 on all matrices trains {times:.0f} times fewer numbers than full "
    "fine-tuning. How large is the tape of one training step, compared with full "
    "fine-tuning's?",
    answer="about as large",
    wrong=("a seventh, like the parameters", "about half", "next to nothing"),
    why="It has {share:.0%}: each A needs the same input as W did, and the thin "
    "activations are kept besides.",
)
def tape_of_lora():
    method = mp.LoRA(r=8, target_modules=EVERYWHERE)
    share = mp.ledger(BACKBONE, method, **STEP).tape / mp.ledger(BACKBONE, **STEP).tape
    times = BACKBONE.size / method.count(BACKBONE)
    assert 0.95 < share < 1.1 and round(times) == 7
    return dict(share=share, times=times)


@question(
    1,
    "y = x Wᵀ, and W is frozen. Which array does the tape keep for this product, beside W "
    "itself, and why?",
    answer="None. x is needed for ∂L/∂W = gᵀ x alone, which nobody asks for.",
    why="∂L/∂x = g W needs only W. For x of {rows} × {columns} float64 numbers the tape "
    "keeps {trains:,} bytes if W trains, and {frozen} if it is frozen.",
)
def input_of_a_frozen_weight():
    rows, columns = 64, 32
    x = Tensor(np.ones((rows, columns)), requires_grad=True)
    kept = {}
    for trains in (True, False):
        w = Tensor(np.ones((8, columns)), requires_grad=trains)
        kept[trains] = sum(a.nbytes for a in tape_arrays(linear(x, w).sum(), (w,)))
    assert kept[True] == rows * columns * 8 and kept[False] == 0
    return dict(rows=rows, columns=columns, trains=kept[True], frozen=kept[False])


@question(
    2,
    "Mixed precision: weights and gradients in bfloat16, AdamW in float32. How many bytes "
    "stand in memory for each number that trains, without the tape?",
    answer="{bytes:.0f}",
    wrong=("2", "4", "8"),
    why="Weight {weight:.0f}, gradient {gradient:.0f}, and AdamW's two moments with the "
    "float32 master copy {optimiser:.0f}.",
)
def bytes_that_train():
    found, size = ledgers_of_llama()[0], presets.config("llama-2-7b").size
    parts = [part / size for part in (found.weights, found.gradients, found.optimiser)]
    assert sum(parts) == 16
    return dict(bytes=sum(parts), weight=parts[0], gradient=parts[1], optimiser=parts[2])


@question(
    2,
    "LoRA on queries and values brings a step of Llama-2-7B from {full:.0f} GB down to "
    "{lora:.0f} GB (one row of 512 tokens). Which part of the memory falls least?",
    answer="the tape",
    wrong=("the gradients", "the moments of AdamW", "the master copy of the optimiser"),
    why="Gradients and optimiser exist only for what trains: {saved:.1%} of them are "
    "gone. The backward pass still goes through every block and needs the arrays on "
    "its way: {tape:.0%} of the tape stay. (The weights stay altogether: they are "
    "frozen, not gone.)",
)
def what_memory_stays():
    full, thin = ledgers_of_llama()
    saved = 1 - (thin.gradients + thin.optimiser) / (full.gradients + full.optimiser)
    assert thin.tape > 0.5 * full.tape and saved > 0.99
    return dict(
        full=full.total / 1e9, lora=thin.total / 1e9, tape=thin.tape / full.tape, saved=saved
    )


@question(
    2,
    "A step of full fine-tuning costs about three forward passes of arithmetic. How many "
    "does a step with LoRA cost, and which part is saved?",
    answer="About {lora:.0f}. The gradients of the frozen matrices themselves are saved; "
    "the gradient still has to pass through them.",
    why="Forward, ∂L/∂x and ∂L/∂W cost about the same. LoRA drops the last of the three: "
    "{full:.2f} becomes {lora:.2f}.",
)
def cost_of_a_step():
    full, lora = (ledger.flops for ledger in ledgers_of_llama())
    passes = [sum(flops.values()) / full["forward"] for flops in (full, lora)]
    assert abs(passes[0] - 3) < 0.05 and abs(passes[1] - 2) < 0.05
    return dict(full=passes[0], lora=passes[1])


@question(
    3,
    "BitFit trains the {few:,} biases of all blocks, LastK(1) all {many:,} numbers of the "
    "last block. Which of the two keeps less on the tape?",
    answer="LastK(1)",
    wrong=("BitFit, for it trains fewer numbers", "both the same", "neither keeps anything"),
    why="The backward pass stops at the lowest number that trains. Of full fine-tuning's "
    "tape LastK(1) keeps {last:.0%}, BitFit {biases:.0%}.",
)
def where_not_how_many():
    full = mp.ledger(BACKBONE, **STEP).tape
    last, biases = (mp.ledger(BACKBONE, m, **STEP).tape for m in (mp.LastK(1), mp.BitFit()))
    few, many = mp.BitFit().count(BACKBONE), mp.LastK(1).count(BACKBONE)
    assert last < biases < full and few < many
    return dict(few=few, many=many, last=last / full, biases=biases / full)


@question(
    3,
    "How many numbers has a block of GPT-2 of width D, with an MLP of width 4 D, biases "
    "everywhere and two norms? Give the formula, and the number for D = {width}.",
    answer="{squares} D² + {lines} D, which is {count:,}",
    why="Attention has four matrices of D² with biases, the MLP two of 4 D² with biases "
    "of 4 D and D; each norm has a gain and a bias.",
)
def size_of_a_block():
    width, squares, lines = BACKBONE.width, 4 + 2 * 4, 4 + 5 + 2 * 2
    count = mp.LastK(1).count(BACKBONE)
    assert count == squares * width**2 + lines * width
    return dict(width=width, squares=squares, lines=lines, count=count)


@question(
    4,
    "LoRA starts with A random and B = 0. Which gradients are not zero in the first step?",
    answer="those of B only",
    wrong=("those of A only", "those of A and of B", "none, and so it needs a warm-up"),
    why="∂L/∂A has the factor B, ∂L/∂B the factor A. On a random model ‖∂L/∂A‖ was {of_a} "
    "and ‖∂L/∂B‖ {of_b:.1e}. Were both zero at the start, both gradients would be "
    "too, for ever.",
)
def first_gradients():
    model = small_model()
    adapter = mp.attach(model, mp.LoRA(r=2, target_modules=EVERYWHERE), rng=0)
    model.loss(IDS, IDS).backward()
    norms = {"lora_A": 0.0, "lora_B": 0.0}
    for path, p in adapter.named_parameters():
        norms[path.split(".")[-1]] += float((p.grad**2).sum()) ** 0.5
    assert norms["lora_A"] == 0 < norms["lora_B"]
    return dict(of_a=int(norms["lora_A"]), of_b=norms["lora_B"])


@question(
    4,
    "α stays {alpha}, and r goes from 1 to 4. By what does LoRA multiply B A x, before "
    "and after? And rsLoRA?",
    answer="LoRA by {lora[0]:g} and then {lora[1]:g} (α / r); rsLoRA by {rs[0]:g} and "
    "then {rs[1]:g} (α / √r).",
    why="Whoever copies an α from elsewhere has to know by which of the two it is "
    "divided, if by any.",
)
def what_alpha_is_divided_by():
    alpha, ranks = 16, (1, 4)
    scales = {}
    for kind in (mp.LoRA, mp.RSLoRA):
        scales[kind] = []
        for r in ranks:
            adapter = mp.attach(small_model(), kind(r=r, lora_alpha=alpha))
            scales[kind].append(float(next(iter(adapter.deltas.values())).scaling))
    assert scales[mp.LoRA] == [alpha / r for r in ranks]
    assert np.allclose(scales[mp.RSLoRA], [alpha / r**0.5 for r in ranks])
    return dict(alpha=alpha, lora=scales[mp.LoRA], rs=scales[mp.RSLoRA])


@question(
    4,
    "A change ΔW has the singular values 8, 7, 6, 5, 4, 3, 2, 1. How many per cent of "
    "‖ΔW‖ does the best change of rank 4 leave over?",
    answer="{percent:.0f} %",
    wrong=("0 %", "50 %", "{by_sum:.0f} %"),
    why="What is left are the smaller singular values: √(4² + 3² + 2² + 1²) of √(8² + … + "
    "1²). (Ten of the sum 36 would be {by_sum:.0f} %: the values add up in squares.)",
)
def what_rank_four_leaves():
    sizes = np.arange(8.0, 0.0, -1.0)
    left = np.linalg.svd(np.diag(np.where(sizes > 4, 0, sizes)), compute_uv=False)
    percent = 100 * np.linalg.norm(left) / np.linalg.norm(sizes)
    assert sizes.sum() == 36 and sizes[4:].sum() == 10
    return dict(percent=percent, by_sum=100 * sizes[4:].sum() / sizes.sum())
