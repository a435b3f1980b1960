"""Published numbers of trainable parameters, and what the formulas make of them.

minipeft count --papers

Each is counted anew from the architecture and the method, then compared with what is printed:
exact, rounded, truncated (cut off where rounding would go up), or else the paper's slip.
"""

import functools
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from ..peft.methods import (
    IA3,
    BitFit,
    Bottleneck,
    DoRA,
    Full,
    LastK,
    LoRA,
    NormTuning,
    Pfeiffer,
    Prompt,
    PTuning,
    VeRA,
)
from .presets import architecture

UNITS = {"%": 1, "K": 10**3, "M": 10**6}


@dataclass(frozen=True)
class Figure:
    """A printed figure: of which model and method, and of which number of theirs.

    It is of what trains, or of the "base", or of the "total" of both; in % it is what trains as
    a share of that. `times` the method is used, and `more` numbers train that it does not have.
    """

    model: str  # a preset
    method: object
    printed: str  # "36.8 K", "0.826 %", "3686400"
    of: str = ""
    times: int = 1
    more: int = 0
    why: str = ""  # what `more` is

    @functools.cached_property
    def counted(self):
        """What the formula gives: a number, or a Fraction in %."""
        model = architecture(self.model)
        trains = self.times * self.method.count(model) + self.more
        whole = model.size + trains * (self.of == "total")
        if self.printed.endswith("%"):
            return Fraction(100 * trains, whole)
        return whole if self.of else trains

    @property
    def verdict(self):
        """How the printed figure follows from what was counted."""
        number, _, unit = self.printed.partition(" ")
        if not unit:
            return "exact" if int(number) == self.counted else "paper's slip"
        step = Fraction(1, 10 ** len(number.partition(".")[2]))  # of its last digit
        over = Fraction(self.counted) / UNITS[unit] - Fraction(number)
        if abs(over) <= step / 2:
            return "rounded"
        return "truncated" if 0 < over < step else "paper's slip"

    def __str__(self):
        times = f"{self.times} × " if self.times > 1 else ""
        why = f", {self.why}" if self.why else ""
        share = "share " if "%" in self.printed else ""
        of = f", {share}of {self.of}" if self.of else ""
        return f"{self.model}  {times}{self.method.brief().replace('_proj', '')}{why}{of}"


QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
QKVUD = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")

PUBLISHED = {
    "LoRA, table 2, arXiv:2106.09685": [
        Figure("roberta-base", LoRA(8), "0.3 M"),
        Figure("roberta-base", BitFit(), "0.1 M", more=-768, why="no pooler"),
        Figure("roberta-large", LoRA(8), "0.8 M"),
        Figure("roberta-large", Pfeiffer(16), "0.8 M"),
        Figure("roberta-large", Pfeiffer(64), "3.0 M"),
        Figure("roberta-large", Bottleneck(8), "0.8 M"),
        Figure("roberta-large", Bottleneck(64), "6.0 M"),
    ],
    "LoRA, table 3": [
        Figure("gpt2-medium", Full(), "354.92 M"),
        Figure("gpt2-large", Full(), "774.03 M"),
        Figure("gpt2-medium", Pfeiffer(6), "0.37 M", more=24 * 2048, why="with their norms"),
        Figure("gpt2-large", Pfeiffer(8), "0.88 M", more=36 * 2560, why="with their norms"),
        Figure("gpt2-medium", LastK(2), "25.19 M"),
        Figure("gpt2-medium", LoRA(4), "0.35 M"),
        Figure("gpt2-large", LoRA(4), "0.77 M"),
    ],
    "LoRA, tables 4 and 15": [
        Figure("gpt3-175b", LoRA(1), "4.7 M"),
        Figure("gpt3-175b", LoRA(2, target_modules=("v_proj",)), "4.7 M"),
        Figure("gpt3-175b", LoRA(2, target_modules=QKVO), "18.8 M"),
        Figure("gpt3-175b", LoRA(4, target_modules=QKVO), "37.7 M"),
        Figure("gpt3-175b", Bottleneck(1), "7.1 M"),
        Figure("gpt3-175b", Bottleneck(4), "21.2 M"),
        Figure("gpt3-175b", Bottleneck(64), "304.4 M"),
        Figure("gpt3-175b", Prompt(32 + 8), "0.4 M"),
        Figure("gpt3-175b", Prompt(64 + 8), "0.9 M"),
        Figure("gpt3-175b", Prompt(128 + 8), "1.7 M"),
        Figure("gpt3-175b", Prompt(256 + 8), "3.2 M"),
        Figure("gpt3-175b", Prompt(8 + 8), "20.2 M", times=96, why="one a layer"),
        Figure("gpt3-175b", BitFit(), "14.2 M"),
    ],
    "VeRA, table 1, arXiv:2310.11454": [
        Figure("roberta-base", LoRA(1), "36.8 K"),
        Figure("roberta-base", LoRA(16), "589.8 K"),
        Figure("roberta-base", LoRA(256), "9437.1 K"),
        Figure("roberta-base", VeRA(1), "18.4 K"),
        Figure("roberta-base", VeRA(16), "18.8 K"),
        Figure("roberta-base", VeRA(256), "24.5 K"),
        Figure("roberta-large", LoRA(1), "98.3 K"),
        Figure("roberta-large", LoRA(16), "1572.8 K"),
        Figure("roberta-large", LoRA(256), "25165.8 K"),
        Figure("roberta-large", VeRA(1), "49.2 K"),
        Figure("roberta-large", VeRA(16), "49.5 K"),
        Figure("roberta-large", VeRA(256), "61.4 K"),
        Figure("gpt3-175b", VeRA(1), "2.4 M"),
        Figure("gpt3-175b", VeRA(16), "2.8 M"),
        Figure("gpt3-175b", VeRA(256), "8.7 M"),
    ],
    "VeRA, tables 2 to 4": [
        Figure("roberta-base", VeRA(1024), "0.043 M"),
        Figure("roberta-large", VeRA(256), "0.061 M"),
        Figure("gpt2-medium", VeRA(1024), "0.098 M"),
        Figure("llama-13b", LoRA(64, target_modules="all-linear"), "250.3 M"),
        Figure("llama-13b", VeRA(1024, "all-linear"), "2.4 M"),
    ],
    "DoRA, table 1, arXiv:2402.09353": [
        Figure("llama-7b", LoRA(32, target_modules=QKVUD), "0.826 %", "total"),
        Figure("llama-7b", DoRA(16, target_modules=QKVUD), "0.427 %", "total"),
        Figure("llama-13b", LoRA(32, target_modules=QKVUD), "0.67 %", "total"),
        Figure("llama-13b", DoRA(32, target_modules=QKVUD), "0.681 %", "total"),
        Figure("llama-3-8b", LoRA(32, target_modules=QKVUD), "0.7 %", "total"),
        Figure("llama-3-8b", DoRA(32, target_modules=QKVUD), "0.71 %", "total"),
        Figure("llama-3-8b", DoRA(16, target_modules=QKVUD), "0.35 %", "total"),
    ],
    "DoRA, ranks": [
        Figure("llama-7b", kind(r, target_modules=QKVUD), f"{printed} %", "total")
        for kind, printed_for in (
            (LoRA, {4: "0.1", 16: "0.42", 32: "0.83", 64: "1.64"}),
            (DoRA, {4: "0.11", 8: "0.22", 16: "0.43", 32: "0.84", 64: "1.65"}),
        )
        for r, printed in printed_for.items()
    ],
    "LLM-Adapters, arXiv:2304.01933": [
        Figure(
            "llama-7b",
            Pfeiffer(256),
            "0.99 %",
            "total",
            more=-32 * (256 + 4096),
            why="no biases",
        ),
    ],
    "(IA)³, appendix C, arXiv:2205.05638": [
        Figure("t0-3b", IA3(), "540 K"),
        Figure("t0-3b", NormTuning(), "250 K"),
        Figure("t0-3b", Prompt(10), "41 K", times=2, why="encoder and decoder"),
        Figure("t0-3b", Prompt(100), "409 K", times=2, why="encoder and decoder"),
    ],
    "Prompt tuning, arXiv:2104.08691": [Figure("t5-v1.1-xxl", Prompt(5), "20480")],
    "AdaLoRA, table 1, arXiv:2303.10512": [
        Figure("deberta-v3-base", LoRA(8, target_modules="all-linear"), "1.33 M"),
        Figure("deberta-v3-base", Pfeiffer(32), "0.6 M"),
        Figure("deberta-v3-base", Pfeiffer(64), "1.18 M"),
        Figure("deberta-v3-base", Bottleneck(8), "0.31 M"),
        Figure("deberta-v3-base", Bottleneck(16), "0.61 M"),
        Figure("deberta-v3-base", Bottleneck(32), "1.22 M"),
    ],
    "ReFT, table 4, arXiv:2404.03592": [Figure("roberta-base", LoRA(8), "0.239 %", "base")],
    "BOFT, table 2, arXiv:2311.06243": [Figure("llama-2-7b", LoRA(16), "0.125 %", "base")],
    "HF PEFT, documentation": [
        Figure("qwen2.5-3b", LoRA(16), "3686400"),
        Figure("qwen2.5-3b", LoRA(16), "3089625088", "total"),
        Figure("bloomz-560m", PTuning(20, 128), "300288"),
        Figure("bloomz-560m", NormTuning(), "100352", more=-2048, why="not the table's norm"),
        Figure("bloomz-560m", Full(), "559214592"),
        Figure("mt0-large", IA3(), "282624"),
        Figure("opt-6.7b", LoRA(16), "8388608"),
        Figure("flan-t5-large", LoRA(16), "4718592"),
        Figure("whisper-large-v2", LoRA(32), "15728640"),
        Figure("t5-large", Prompt(20), "40960", times=2, why="encoder and decoder"),
    ],
    "torchtune, documentation": [Figure("llama-2-7b", LoRA(8), "6742609920", "total")],
    "microsoft/LoRA, roberta_base_lora_mnli.bin": [
        Figure(
            "roberta-base", LoRA(8), "887811", more=769 * 768 + 769 * 3, why="with classifier"
        ),
    ],
}


def rows():
    """All figures as dicts: source, configuration, printed, formula, verdict."""
    for source, figures in PUBLISHED.items():
        for figure in figures:
            counted = (
                figure.counted if isinstance(figure.counted, int) else float(figure.counted)
            )
            yield {
                "source": source,
                "configuration": str(figure),
                "printed": figure.printed,
                "formula": counted,
                "verdict": figure.verdict,
            }


def table():
    """All figures as text, and how many follow from their formula, and how."""
    lines, source = [f"  {'configuration':<70}{'printed':>12}{'formula':>16}  verdict"], ""
    verdicts = Counter()
    for row in rows():
        if row["source"] != source:
            source = row["source"]
            lines.append(source)
        whole = isinstance(row["formula"], int)
        counted = f"{row['formula']:,}" if whole else f"{row['formula']:.4f} %"
        left = f"  {row['configuration']:<70}{row['printed']:>12}"
        lines.append(f"{left}{counted:>16}  {row['verdict']}")
        verdicts[row["verdict"]] += 1
    shares = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    return "\n".join([*lines, f"{verdicts.total()} figures: {shares}"])
