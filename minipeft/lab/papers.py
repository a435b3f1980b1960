"""Counts of trainable parameters that papers print, recomputed from the architectures.

minipeft count --papers

The verdict on each says how what is printed follows from what is counted: exact; rounded;
truncated, that is, cut off where rounding would go up; or else a slip of the paper's.
"""

import functools
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from ..peft.base import Method
from ..peft.methods import (
    BOFT,
    C3A,
    HRA,
    IA3,
    MPT,
    OFT,
    BitFit,
    Bottleneck,
    DoRA,
    FourierFT,
    Full,
    LastK,
    LoRA,
    MiSS,
    NormTuning,
    Pfeiffer,
    Prompt,
    PTuning,
    RandLoRA,
    RoAd,
    VeRA,
)
from .presets import architecture

UNITS = {"%": 1, "K": 10**3, "M": 10**6}


@dataclass(frozen=True)
class Claim:
    """One count that a paper prints, and the model and method that it is the count of.

    printed: "36.8 K", "0.826 %" or "3686400".  of: what it counts, "" for the trainable
    parameters, "base" or "total" for all those of the model without or with the method; in %,
    it is the trainable parameters' share of base or total.
    """

    model: str  # name of a preset
    method: Method
    printed: str
    of: str = ""
    times: int = 1  # how often the model has the method
    extra: int = 0  # parameters that the paper counts and the method does not have
    note: str = ""  # the reason for `times` or `extra`

    @functools.cached_property
    def counted(self):
        """The recomputed count: parameters, or in % as a Fraction."""
        model = architecture(self.model)
        trainable = self.times * self.method.count(model) + self.extra
        whole = model.size + trainable * (self.of == "total")
        if self.printed.endswith("%"):
            return Fraction(100 * trainable, whole)
        return whole if self.of else trainable

    @property
    def verdict(self):
        """How what is printed follows from what is counted."""
        number, _, unit = self.printed.partition(" ")
        if not unit:
            return "exact" if int(number) == self.counted else "paper's slip"
        digit = Fraction(1, 10 ** len(number.partition(".")[2]))  # worth of the last one
        excess = Fraction(self.counted) / UNITS[unit] - Fraction(number)
        if abs(excess) <= digit / 2:
            return "rounded"
        return "truncated" if 0 < excess < digit else "paper's slip"

    def __str__(self):
        times = f"{self.times} × " if self.times > 1 else ""
        note = f", {self.note}" if self.note else ""
        share = "share " if "%" in self.printed else ""
        of = f", {share}of {self.of}" if self.of else ""
        return f"{self.model}  {times}{self.method.brief().replace('_proj', '')}{note}{of}"


QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
QKVUD = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")

PUBLISHED = {  # {source: claims}
    "LoRA, table 2, arXiv:2106.09685": [
        Claim("roberta-base", LoRA(8), "0.3 M"),
        Claim("roberta-base", BitFit(), "0.1 M", extra=-768, note="no pooler"),
        Claim("roberta-large", LoRA(8), "0.8 M"),
        Claim("roberta-large", Pfeiffer(16), "0.8 M"),
        Claim("roberta-large", Pfeiffer(64), "3.0 M"),
        Claim("roberta-large", Bottleneck(8), "0.8 M"),
        Claim("roberta-large", Bottleneck(64), "6.0 M"),
    ],
    "LoRA, table 3": [
        Claim("gpt2-medium", Full(), "354.92 M"),
        Claim("gpt2-large", Full(), "774.03 M"),
        Claim("gpt2-medium", Pfeiffer(6), "0.37 M", extra=24 * 2048, note="with their norms"),
        Claim("gpt2-large", Pfeiffer(8), "0.88 M", extra=36 * 2560, note="with their norms"),
        Claim("gpt2-medium", LastK(2), "25.19 M"),
        Claim("gpt2-medium", LoRA(4), "0.35 M"),
        Claim("gpt2-large", LoRA(4), "0.77 M"),
    ],
    "LoRA, tables 4 and 15": [
        Claim("gpt3-175b", LoRA(1), "4.7 M"),
        Claim("gpt3-175b", LoRA(2, target_modules=("v_proj",)), "4.7 M"),
        Claim("gpt3-175b", LoRA(2, target_modules=QKVO), "18.8 M"),
        Claim("gpt3-175b", LoRA(4, target_modules=QKVO), "37.7 M"),
        Claim("gpt3-175b", Bottleneck(1), "7.1 M"),
        Claim("gpt3-175b", Bottleneck(4), "21.2 M"),
        Claim("gpt3-175b", Bottleneck(64), "304.4 M"),
        Claim("gpt3-175b", Prompt(32 + 8), "0.4 M"),
        Claim("gpt3-175b", Prompt(64 + 8), "0.9 M"),
        Claim("gpt3-175b", Prompt(128 + 8), "1.7 M"),
        Claim("gpt3-175b", Prompt(256 + 8), "3.2 M"),
        Claim("gpt3-175b", Prompt(8 + 8), "20.2 M", times=96, note="one a layer"),
        Claim("gpt3-175b", BitFit(), "14.2 M"),
    ],
    "VeRA, table 1, arXiv:2310.11454": [
        Claim("roberta-base", LoRA(1), "36.8 K"),
        Claim("roberta-base", LoRA(16), "589.8 K"),
        Claim("roberta-base", LoRA(256), "9437.1 K"),
        Claim("roberta-base", VeRA(1), "18.4 K"),
        Claim("roberta-base", VeRA(16), "18.8 K"),
        Claim("roberta-base", VeRA(256), "24.5 K"),
        Claim("roberta-large", LoRA(1), "98.3 K"),
        Claim("roberta-large", LoRA(16), "1572.8 K"),
        Claim("roberta-large", LoRA(256), "25165.8 K"),
        Claim("roberta-large", VeRA(1), "49.2 K"),
        Claim("roberta-large", VeRA(16), "49.5 K"),
        Claim("roberta-large", VeRA(256), "61.4 K"),
        Claim("gpt3-175b", VeRA(1), "2.4 M"),
        Claim("gpt3-175b", VeRA(16), "2.8 M"),
        Claim("gpt3-175b", VeRA(256), "8.7 M"),
    ],
    "VeRA, tables 2 to 4": [
        Claim("roberta-base", VeRA(1024), "0.043 M"),
        Claim("roberta-large", VeRA(256), "0.061 M"),
        Claim("gpt2-medium", VeRA(1024), "0.098 M"),
        Claim("llama-13b", LoRA(64, target_modules="all-linear"), "250.3 M"),
        Claim("llama-13b", VeRA(1024, "all-linear"), "2.4 M"),
    ],
    "DoRA, table 1, arXiv:2402.09353": [
        Claim("llama-7b", LoRA(32, target_modules=QKVUD), "0.826 %", "total"),
        Claim("llama-7b", DoRA(16, target_modules=QKVUD), "0.427 %", "total"),
        Claim("llama-13b", LoRA(32, target_modules=QKVUD), "0.67 %", "total"),
        Claim("llama-13b", DoRA(32, target_modules=QKVUD), "0.681 %", "total"),
        Claim("llama-3-8b", LoRA(32, target_modules=QKVUD), "0.7 %", "total"),
        Claim("llama-3-8b", DoRA(32, target_modules=QKVUD), "0.71 %", "total"),
        Claim("llama-3-8b", DoRA(16, target_modules=QKVUD), "0.35 %", "total"),
    ],
    "DoRA, ranks": [
        Claim("llama-7b", kind(r, target_modules=QKVUD), f"{printed} %", "total")
        for kind, printed_for in (
            (LoRA, {4: "0.1", 16: "0.42", 32: "0.83", 64: "1.64"}),
            (DoRA, {4: "0.11", 8: "0.22", 16: "0.43", 32: "0.84", 64: "1.65"}),
        )
        for r, printed in printed_for.items()
    ],
    "MiSS, tables 5 and 7, arXiv:2409.15371": [
        Claim("llama-2-7b", LoRA(36, target_modules="all-linear"), "89.9 M"),
        Claim("llama-2-7b", DoRA(36, target_modules="all-linear"), "91.3 M"),
        Claim("llama-2-7b", MiSS(16, "all-linear"), "21.7 M"),
        Claim("llama-2-7b", MiSS(32, "all-linear"), "43.5 M"),
        Claim("llama-2-7b", MiSS(64, "all-linear"), "87.0 M"),
        Claim("llama-2-7b", MiSS(128, "all-linear"), "174.0 M"),
    ],
    "RandLoRA, table 15, arXiv:2502.00987": [
        Claim("llama-3-8b", kind(r, target_modules=QKVUD), f"{printed} %", "total")
        for kind, printed_for in (
            (LoRA, {16: "0.35", 32: "0.7", 64: "1.4"}),
            (RandLoRA, {60: "0.36", 30: "0.7", 15: "1.4"}),
        )
        for r, printed in printed_for.items()
    ],
    "LLM-Adapters, arXiv:2304.01933": [
        Claim(
            "llama-7b",
            Pfeiffer(256),
            "0.99 %",
            "total",
            extra=-32 * (256 + 4096),
            note="no biases",
        ),
    ],
    "(IA)³, appendix C, arXiv:2205.05638": [
        Claim("t0-3b", IA3(), "540 K"),
        Claim("t0-3b", NormTuning(), "250 K"),
        Claim("t0-3b", Prompt(10), "41 K", times=2, note="encoder and decoder"),
        Claim("t0-3b", Prompt(100), "409 K", times=2, note="encoder and decoder"),
    ],
    "Prompt tuning, arXiv:2104.08691": [Claim("t5-v1.1-xxl", Prompt(5), "20480")],
    "MPT, table 1, arXiv:2303.02861": [
        Claim("t5-base", MPT(100), "77.6 K"),
        Claim("t5-base", MPT(100), "0.035 %", "base"),
    ],
    "AdaLoRA, table 1, arXiv:2303.10512": [
        Claim("deberta-v3-base", LoRA(8, target_modules="all-linear"), "1.33 M"),
        Claim("deberta-v3-base", Pfeiffer(32), "0.6 M"),
        Claim("deberta-v3-base", Pfeiffer(64), "1.18 M"),
        Claim("deberta-v3-base", Bottleneck(8), "0.31 M"),
        Claim("deberta-v3-base", Bottleneck(16), "0.61 M"),
        Claim("deberta-v3-base", Bottleneck(32), "1.22 M"),
    ],
    "ReFT, table 4, arXiv:2404.03592": [Claim("roberta-base", LoRA(8), "0.239 %", "base")],
    "BOFT, tables 1 and 2, arXiv:2311.06243": [
        Claim(
            "deberta-v3-base",
            OFT(16, "all-linear"),
            "0.79 M",
            extra=2 * 82_944,
            note="with lengths and biases",
        ),
        Claim(
            "deberta-v3-base",
            BOFT(8, 2, "all-linear"),
            "0.75 M",
            extra=82_944 - 2 * 10_368 * 36,
            note="with biases, blocks skew",
        ),
        Claim("llama-2-7b", LoRA(16), "0.125 %", "base"),
    ],
    "FourierFT, tables 2 to 4, arXiv:2405.03003": [
        Claim("roberta-base", FourierFT(1000), "0.024 M"),
        Claim("roberta-large", FourierFT(1000), "0.048 M"),
        Claim("gpt2-medium", FourierFT(1000), "0.048 M"),
        Claim("gpt2-large", FourierFT(1000), "0.072 M"),
        Claim("llama-2-7b", FourierFT(1000), "0.064 M"),
        Claim("llama-2-13b", FourierFT(1000), "0.08 M"),
    ],
    "HRA, table 2, arXiv:2405.17484": [
        Claim("deberta-v3-base", HRA(8, "all-linear"), "0.66 M"),
    ],
    "C3A, table 2, arXiv:2407.19342": [
        Claim("roberta-base", C3A(768), "0.018 M"),
        Claim("roberta-base", C3A(128), "0.111 M"),
        Claim("roberta-large", C3A(1024), "0.049 M"),
        Claim("roberta-large", C3A(128), "0.393 M"),
    ],
    "RoAd, tables 2 to 4, arXiv:2409.00119": [
        Claim("roberta-base", RoAd("road_1", 2, "all-linear"), "0.07 %", "base"),
        Claim("roberta-large", RoAd("road_1", 2, "all-linear"), "0.06 %", "base"),
        *(
            Claim("llama-7b", RoAd(f"road_{n}", 2, "all-linear"), f"0.0{2 * n} %", "base")
            for n in (1, 2, 4)
        ),
        Claim("llama-13b", RoAd("road_1", 2, "all-linear"), "0.02 %", "base"),
        Claim("llama-13b", RoAd("road_2", 2, "all-linear"), "0.03 %", "base"),
    ],
    "HF PEFT, documentation": [
        Claim("qwen2.5-3b", LoRA(16), "3686400"),
        Claim("qwen2.5-3b", LoRA(16), "3089625088", "total"),
        Claim("bloomz-560m", PTuning(20, 128), "300288"),
        Claim("bloomz-560m", NormTuning(), "100352", extra=-2048, note="not the table's norm"),
        Claim("bloomz-560m", Full(), "559214592"),
        Claim("mt0-large", IA3(), "282624"),
        Claim("opt-6.7b", LoRA(16), "8388608"),
        Claim("flan-t5-large", LoRA(16), "4718592"),
        Claim("whisper-large-v2", LoRA(32), "15728640"),
        Claim("t5-large", Prompt(20), "40960", times=2, note="encoder and decoder"),
    ],
    "torchtune, documentation": [Claim("llama-2-7b", LoRA(8), "6742609920", "total")],
    "microsoft/LoRA, roberta_base_lora_mnli.bin": [
        Claim(
            "roberta-base", LoRA(8), "887811", extra=769 * 768 + 769 * 3, note="with classifier"
        ),
    ],
}


def rows():
    """Yields each claim as a dict: source, configuration, printed, formula, verdict."""
    for source, claims in PUBLISHED.items():
        for claim in claims:
            counted = claim.counted
            yield {
                "source": source,
                "configuration": str(claim),
                "printed": claim.printed,
                "formula": float(counted) if isinstance(counted, Fraction) else counted,
                "verdict": claim.verdict,
            }


def table():
    """Returns all claims as text, by source, and how many have each verdict."""
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
    sums = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.most_common())
    return "\n".join([*lines, f"{verdicts.total()} counts: {sums}"])
