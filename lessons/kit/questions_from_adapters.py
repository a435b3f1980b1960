"""The questions on lessons 5 to 13: the other families, comparing, serving, data, four bits."""

import numpy as np

import minipeft as mp
from minipeft.engine.functional import IGNORE
from minipeft.lab import presets
from minipeft.lab.pretrain import BACKBONE
from minipeft.model.quantize import QuantizedParameter

from .question import question
from .questions_to_lora import EVERYWHERE, small_model


@question(
    5,
    "Why can a bottleneck adapter not be merged into the weights, as LoRA can?",
    answer="There is a nonlinear function between its two matrices.",
    wrong=(
        "It has a bias.",
        "Its width m is smaller than the model's.",
        "It stands behind the layer, and only what stands beside it can be merged.",
    ),
    why="A merged layer is W′ x + b′. Without φ the two matrices are one, and W becomes "
    "(I + U D) W. Of the package's two, it merged {merged} matrices of LoRA and "
    "refused the adapter.",
)
def no_merge_of_a_bend():
    refused, model = "", small_model()
    mp.attach(model, mp.Pfeiffer(2))
    try:
        mp.merge(model)
    except ValueError as error:
        refused = str(error)
    assert "cannot be merged" in refused
    mp.detach(model)
    adapter = mp.attach(model, mp.LoRA(r=2, target_modules=EVERYWHERE))
    mp.merge(model)
    return dict(merged=len(adapter.deltas))


@question(
    5,
    "Houlsby puts an adapter behind attention and behind the MLP of each block, Pfeiffer "
    "behind the MLP only. On our {layers} blocks of width {width}, how many numbers do "
    "they train with m = {m}?",
    answer="Houlsby {both:,}, Pfeiffer {one:,}: half as many",
    why="One adapter has 2 m · width + m + width numbers, here {each:,}; there are six "
    "and three.",
)
def houlsby_and_pfeiffer():
    m, width = 8, BACKBONE.width
    both, one = mp.Bottleneck(m).count(BACKBONE), mp.Pfeiffer(m).count(BACKBONE)
    each = 2 * m * width + m + width
    assert both == 2 * one == 6 * each and BACKBONE.layers == 3
    return dict(layers=BACKBONE.layers, width=width, m=m, both=both, one=one, each=each)


@question(
    6,
    "A prompt of 8 virtual tokens trains {prompt:,} numbers on our backbone ({layers} "
    "blocks, width {width}). How many does a prefix of 8 train?",
    answer="{prefix:,}",
    wrong=("{prompt:,}", "{keys:,}", "{double:,}"),
    why="A prompt is 8 vectors in front of the text. A prefix is 8 keys *and* 8 values in "
    "every block: 2 · {layers} times as many.",
)
def prompt_and_prefix():
    prompt, prefix = mp.Prompt(8).count(BACKBONE), mp.Prefix(8).count(BACKBONE)
    assert prefix == 2 * BACKBONE.layers * prompt
    return dict(
        prompt=prompt, prefix=prefix, layers=BACKBONE.layers, width=BACKBONE.width,
        keys=prefix // 2, double=2 * prefix,
    )  # fmt: skip


@question(
    6,
    "Without a prefix a query gives a letter {before:.0%} of its attention. With a "
    "prefix, {gate:.0%} of the attention goes to the prefix. How much does the letter get "
    "now?",
    answer="{after:.0%}",
    wrong=("{before:.0%}", "{minus:.0%}", "it cannot be told from these two numbers"),
    why="One softmax divides the attention, so all letters shrink by the same factor, 1 − "
    "a: {before:.0%} times {rest:.0%}. Among themselves the letters keep their "
    "shares. That is what a prefix cannot change.",
)
def shares_with_a_prefix():
    text, gate = np.log([0.4, 0.35, 0.25]), 0.25
    scores = np.concatenate([[np.log(gate / (1 - gate))], text])
    p = np.exp(scores) / np.exp(scores).sum()
    assert np.isclose(p[0], gate) and np.isclose(p[1], 0.4 * (1 - gate))
    return dict(before=0.4, gate=p[0], after=p[1], rest=1 - gate, minus=0.4 - gate)


@question(
    7,
    "Which of these trains the fewest numbers on our backbone?",
    answer="LayerNorm tuning",
    wrong=("BitFit", "(IA)³", "LoRA of rank 1 on all matrices"),
    why="Its gains and biases are {norms:,} numbers. (IA)³ has {ia3:,}, BitFit "
    "{bitfit:,}, and even LoRA of rank 1 has {lora:,}.",
)
def fewest_numbers():
    methods = dict(
        norms=mp.NormTuning(), ia3=mp.IA3(), bitfit=mp.BitFit(),
        lora=mp.LoRA(r=1, target_modules=EVERYWHERE),
    )  # fmt: skip
    counts = {name: method.count(BACKBONE) for name, method in methods.items()}
    assert sorted(counts, key=counts.get) == ["norms", "ia3", "bitfit", "lora"]
    return counts


@question(
    7,
    "(IA)³ multiplies a row of W by a trainable factor, and merges by writing the product "
    "into W. Why not unmerge by dividing by the same factor?",
    answer="The product was rounded, so the quotient is not always W; and what was "
    "multiplied by 0 is gone. Keep the old array instead.",
    why="Of {n:,} random float32 weights, {share:.0%} came back with another last bit.",
)
def dividing_does_not_undo():
    rng, n = np.random.default_rng(0), 10_000
    W, stretch = (rng.standard_normal(n).astype("float32") for _ in range(2))
    share = float(np.mean(W * stretch / stretch != W))
    assert 0.02 < share < 0.9
    return dict(n=n, share=share)


@question(
    8,
    "Words right after 100 steps:\n\n"
    "| rate | full | LoRA | prefix |\n"
    "|--:|--:|--:|--:|\n"
    "| 0.001 | 98 | 48 | 0 |\n"
    "| 0.01 | 90 | 95 | 52 |\n"
    "| 0.1 | 0 | 66 | 92 |\n\n"
    "What does the table say about the methods?",
    answer="Each at its own best rate they are close: {full}, {lora} and {prefix}.",
    wrong=(
        "Full fine-tuning is best: it wins at the lowest rate.",
        "LoRA is best: its mean over the rates is the highest.",
        "Prefix tuning cannot learn the task.",
    ),
    why="At one rate for all, whoever the rate suits wins: {winners}. Such a table ranks "
    "rates.",
)
def one_rate_for_all():
    table = {"full": (98, 90, 0), "LoRA": (48, 95, 66), "prefix": (0, 52, 92)}
    winners = [max(table, key=lambda name: table[name][i]) for i in range(3)]
    best = {name.lower(): max(row) for name, row in table.items()}
    assert winners == ["full", "LoRA", "prefix"]
    assert max(best.values()) - min(best.values()) < 10
    return best | dict(winners=", then ".join(winners))


@question(
    8,
    "Twenty learning rates are tried that are all equally good: each gets a word right "
    "with probability 0.9. They are scored on the same 100 *test* words, and the best "
    "score is reported. What is it, as a rule?",
    answer="about {best:.0f} %",
    wrong=("about 90 %", "about {low:.0f} %", "about 100 %"),
    why="The maximum of twenty lucky and unlucky scores is too high by {above:.0f} points "
    "here, and no method got better. So a rate is chosen on validation words, and the "
    "test words are read once.",
)
def chosen_on_the_test():
    scores = np.random.default_rng(0).binomial(100, 0.9, (2000, 20))
    best = scores.max(axis=1).mean()
    assert 94 < best < 97
    return dict(best=best, above=round(best) - 90, low=180 - round(best))


@question(
    9,
    "In float32 a change is added to a weight and subtracted again: (W + ΔW) − ΔW. Do all "
    "weights come back with all their bits?",
    answer="No: about {missed:.0%} of the weights do not.",
    wrong=(
        "Yes: subtraction undoes addition.",
        "Yes in float32, only bfloat16 loses bits.",
        "No: hardly any weight comes back.",
    ),
    why="The sum is rounded; the share is that of a trial with random weights. In float16 "
    "{missed_16:.0%} did not come back either: fewer bits make each miss larger, not "
    "more frequent. The package keeps the old array.",
)
def adding_and_subtracting():
    rng = np.random.default_rng(0)
    W, change = rng.standard_normal(20_000), 0.3 * rng.standard_normal(20_000)
    missed = {}
    for kind in ("float32", "float16"):
        w, d = W.astype(kind), change.astype(kind)
        missed[kind] = float(np.mean((w + d) - d != w))
    assert all(0.03 < share < 0.5 for share in missed.values())
    assert abs(missed["float32"] - missed["float16"]) < 0.1
    return dict(missed=missed["float32"], missed_16=missed["float16"])


@question(
    9,
    "Two LoRAs of rank {r} are added: A = A₁ + A₂ and B = B₁ + B₂. Why is B A not the sum "
    "of the two changes, and how does one store the exact sum?",
    answer="B A has the cross terms B₁ A₂ and B₂ A₁ too. Put the A's above and the B's "
    "beside each other: a LoRA of rank {both}.",
    why="For random matrices the sum with cross terms was {crossed:.0%} of its length "
    "off, the other one {exact}.",
)
def cross_terms():
    rng, r = np.random.default_rng(0), 4
    (A1, A2), (B1, B2) = rng.standard_normal((2, r, 20)), rng.standard_normal((2, 30, r))
    total = B1 @ A1 + B2 @ A2
    crossed = np.linalg.norm((B1 + B2) @ (A1 + A2) - total) / np.linalg.norm(total)
    stacked = np.hstack([B1, B2]) @ np.vstack([A1, A2])
    assert crossed > 0.5 and np.allclose(stacked, total, rtol=1e-12)
    assert np.linalg.matrix_rank(total) == 2 * r
    return dict(r=r, both=2 * r, crossed=crossed, exact=0)


@question(
    10,
    "A batch is read in four parts with 10, 10, 10 and 2 labels. A loop adds up the "
    "parts' mean losses and divides by 4. How many times too much does a label of the "
    "last part count?",
    answer="{times:g} times",
    wrong=("2 times", "5 times", "It counts as it should."),
    why="A label should count 1 / {labels}. If means are averaged, it counts 1 / 4 · 1 "
    "/ 2. Divide each part's sum by the labels of the whole batch.",
)
def mean_of_means():
    parts = (10, 10, 10, 2)
    should, counts = 1 / sum(parts), 1 / len(parts) / parts[-1]
    assert counts == 1 / 4 * 1 / 2
    return dict(times=counts / should, labels=sum(parts))


@question(
    10,
    "By what is the noise of a batch's gradient multiplied if the batch becomes four "
    "times as large?",
    answer="½",
    wrong=("¼", "it stays the same", "1/16"),
    why="It falls as one over the root of the size. In a trial with means of 4 and of 16 "
    "random numbers the ratio was {ratio:.2f}.",
)
def noise_of_a_batch():
    rng = np.random.default_rng(0)
    small, large = (rng.standard_normal((4000, n)).mean(axis=1).std() for n in (4, 16))
    assert abs(large / small - 0.5) < 0.05
    return dict(ratio=large / small)


@question(
    11,
    "NF4 with a float32 scale for every 64 weights costs {single:g} bits a weight. What "
    "does it cost with double quantisation: 8-bit scales, 256 of them under one float32 "
    "scale?",
    answer="{double:.3f} bits",
    wrong=("4 bits", "{eight:.3f} bits", "{single:g} bits"),
    why="4 + 8 / 64 + 32 / (64 · 256). The last term is the scale of the scales.",
)
def bits_of_nf4():
    w = np.random.default_rng(0).standard_normal((512, 512)).astype("float32")
    single, double = (
        8 * QuantizedParameter(w, "nf4", block=64, double=twice).nbytes / w.size
        for twice in (False, True)
    )
    assert single == 4.5 and abs(double - (4 + 8 / 64 + 32 / (64 * 256))) < 1e-3
    return dict(single=single, double=double, eight=4 + 8 / 64)


@question(
    11,
    "A LoRA is merged into a 4-bit base, and the sum is rounded to 4 bits again. What "
    "happens if ΔW is much smaller than the distance between two levels?",
    answer="Almost all of it is lost: most weights get the code that they had.",
    wrong=(
        "Nothing is lost: rounding is exact for what was rounded before.",
        "It is kept, and costs more bits.",
        "Each weight moves by one level.",
    ),
    why="Of random weights in NF4, with a change of 1 % of their size, {same:.0%} got "
    "their old code back. Merge into unpacked weights, or leave the adapter attached.",
)
def too_small_for_a_level():
    rng = np.random.default_rng(0)
    w, change = rng.standard_normal((2, 128, 128)).astype("float32")
    packed = QuantizedParameter(w, "nf4")
    again = packed.requantized(packed.data + 0.01 * change)
    both = [np.stack([p.codes >> 4, p.codes & 15]) for p in (packed, again)]  # two a byte
    same = float(np.mean(both[0] == both[1]))
    assert same > 0.9
    return dict(same=same)


@question(
    12,
    "LoHa multiplies two changes of rank {r} with each other, element by element. Which "
    "rank can the result have?",
    answer="{rank}",
    wrong=("{r}", "{double}", "any"),
    why="The rank of an elementwise product is at most the product of the ranks. LoHa "
    "with r = {r} trains as many numbers as LoRA with r = {double}.",
)
def rank_of_loha():
    rng, r = np.random.default_rng(0), 4
    one, two = (rng.standard_normal((40, r)) @ rng.standard_normal((r, 50)) for _ in range(2))
    rank = int(np.linalg.matrix_rank(one * two))
    counts = [
        mp.LoHa(r=r, target_modules=EVERYWHERE).count(BACKBONE),
        mp.LoRA(r=2 * r, target_modules=EVERYWHERE).count(BACKBONE),
    ]
    assert rank == r * r and counts[0] == counts[1]
    return dict(r=r, rank=rank, double=2 * r)


@question(
    12,
    "PiSSA starts with A and B from the largest singular values of W, and takes s B A off "
    "the frozen weight. By how much does the model change when it is attached?",
    answer="Not at all, but for rounding.",
    wrong=(
        "By the largest singular values of W.",
        "By s B A, which the first steps of training take back.",
        "By half of W.",
    ),
    why="W − s B A + s B A is W. Here the logits moved by {moved:.0e} of the largest.",
)
def pissa_starts_where_it_was():
    ids, model = np.array([[1, 2, 3, 4, 5]]), small_model()
    before = model(ids).data
    mp.attach(model, mp.PiSSA(r=2, target_modules=EVERYWHERE))
    moved = np.abs(model(ids).data - before).max() / np.abs(before).max()
    assert moved < 1e-4
    return dict(moved=float(moved))


@question(
    13,
    "SmolLM2-135M has {size:,} parameters. About which part of it does LoRA of rank 8 on "
    "all matrices train?",
    answer="about {share:.1f} %",
    wrong=("about {tenth:.2f} %", "about {tenfold:.0f} %", "about half"),
    why="{count:,}: r (in + out) on each of the {matrices} matrices of the blocks.",
)
def lora_on_smollm():
    config = presets.config("smollm2-135m")
    count = mp.LoRA(r=8, target_modules=EVERYWHERE).count(config)
    assert count == sum(8 * sum(shape) for shape in config.linear_shapes.values())
    share = 100 * count / config.size
    return dict(
        size=config.size, count=count, share=share, tenth=share / 10, tenfold=10 * share,
        matrices=len(config.linear_shapes),
    )  # fmt: skip


@question(
    13,
    "A chat model is fine-tuned on questions and answers. Which tokens have a label, and "
    "what stands in the place of the others?",
    answer="Those of the answers. The others have the label {ignore}, and add nothing to "
    "the loss.",
    why="The model is to learn to answer, not to ask. With all labels of a row but one "
    "set to {ignore}, the loss was that of the one, to {off:.0e}.",
)
def labels_of_a_chat():
    model, ids = small_model(), np.array([[1, 2, 3, 4, 5]])
    labels = np.full_like(ids, IGNORE)
    labels[0, 3] = 7
    logits = model(ids).data[0, 3].astype(float)
    alone = np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[7]
    off = abs(float(model.loss(ids, labels).data) - alone)
    assert off < 1e-5
    return dict(ignore=IGNORE, off=off)
