"""What `count` says is what a live model trains; presets, published figures, bad input."""

import json
import re
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import minipeft as mp
from methods import SPECS
from minipeft.__main__ import main
from minipeft.errors import unknown
from minipeft.lab import architectures, papers, presets
from minipeft.peft.base import Method
from minipeft.peft.targets import Targeted
from strategies import configs, model

BASES = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "gpt3-175b": 174_604_259_328,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "mistral-7b": 7_241_732_096,
    "smollm2-135m": 134_515_008,
    "qwen2.5-3b": 3_085_938_688,
    "phi-2": 2_779_683_840,
    "opt-6.7b": 6_658_473_984,
    "bloomz-560m": 559_214_592,
    "bert-base": 109_482_240,
    "bert-large": 335_141_888,
    "roberta-base": 124_645_632,
    "roberta-large": 355_359_744,
    "deberta-v3-base": 183_831_552,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "flan-t5-small": 76_961_152,
    "flan-t5-base": 247_577_856,
    "flan-t5-large": 783_150_080,
    "flan-t5-xl": 2_849_757_184,
    "flan-t5-xxl": 11_135_332_352,
    "t0-3b": 2_849_757_184,
    "mt0-large": 1_229_581_312,
    "whisper-large-v2": 1_543_304_960,
}


def worth(formula):
    """The number that the arithmetic in the middle of a formula comes to."""
    middle = formula.split(" = ")[-2]
    middle = re.sub(r"[a-z,]+", "", middle).replace("²", "**2").replace("³", "**3")
    middle = re.sub(r"(?<=[\d)]) *\(", "*(", middle.replace("·", "*"))
    middle = middle.replace("−", "-").replace("/", "//")
    return eval(re.sub(r"\) *(?=\d)", ")*", middle))


@pytest.mark.parametrize("name", mp.METHODS)
@given(st.data())
def test_it_says_what_a_live_model_trains(name, data):
    config = data.draw(configs(context=40))
    base = model(config, precision="float32")
    try:
        method = data.draw(st.one_of(SPECS[name].draw(config), st.just(mp.METHODS[name]())))
        adapter = mp.attach(base, method)
    except ValueError:
        with pytest.raises(ValueError):
            mp.count(config, method)
        return
    found = mp.count(config, method)
    assert found.trainable == adapter.count == worth(found.formula)
    assert found.formula.endswith(f" = {found.trainable:,}")
    assert found.total == sum(p.data.size for p in base.parameters())  # copies in their places
    mp.detach(base)
    assert found.base == sum(p.data.size for p in base.parameters())
    assert found.percent_of_base == pytest.approx(100 * adapter.count / found.base, 1e-12)
    assert found.percent_of_total == pytest.approx(100 * adapter.count / found.total, 1e-12)


@pytest.mark.parametrize("name", mp.METHODS)
@given(st.data())
def test_a_model_told_by_its_parameters_counts_like_its_config(name, data):
    config = data.draw(configs())
    told = architectures.extend(config, {})
    method = data.draw(SPECS[name].draw(config))
    assert mp.count(told, method) == mp.count(config, method)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_methods_count_on_every_preset(name, request):
    """All methods if thorough, else a third of them by turns."""
    told = presets.architecture(name)
    biased = any("bias" in path for path in told.parameter_shapes)
    share = 1 if request.config.getoption("--profile") == "thorough" else 3
    first = list(presets.PRESETS).index(name) % share
    for spec in list(SPECS.values())[first::share]:
        if "llama" not in spec.shapes and not biased:
            continue
        found = mp.count(told, spec.method())
        assert found.trainable == worth(found.formula) > 0


@pytest.mark.parametrize("name", BASES)
def test_base_sizes_are_exact(name):
    assert presets.architecture(name).size == BASES[name]


def test_every_preset_is_held_to_a_size():
    assert presets.PRESETS.keys() - BASES.keys() == {
        f"t5-v1.1-{size}"
        for size in presets.T5_LATER  # flan-t5 is t5-v1.1, trained further
    }
    for size in presets.T5_LATER:
        assert presets.architecture(f"t5-v1.1-{size}").size == BASES[f"flan-t5-{size}"]


def test_presets_of_our_shape_are_configs_that_a_transformer_takes():
    config = presets.config("smollm2-135m").with_(layers=1, width=18, ffn=4, vocab=5)
    assert config.size == sum(p.data.size for p in mp.Transformer(config, 0).parameters())
    with pytest.raises(ValueError, match="roberta-base is not of this package's shape"):
        presets.config("roberta-base")


def by_hand(*parts):
    return sum(times * numbers for times, numbers in parts)


def test_what_other_shapes_have_that_ours_do_not():
    qwen, phi = presets.architecture("qwen2.5-3b"), presets.architecture("phi-2")
    assert mp.BitFit().count(qwen) == 36 * (2048 + 2 * 256)
    assert mp.NormTuning().count(phi) == 33 * 2 * 2560
    assert mp.LastK(1).count(phi) == by_hand((12, 2560**2), (9 + 2, 2560))
    bloom, deberta = (presets.architecture(n) for n in ("bloomz-560m", "deberta-v3-base"))
    assert mp.NormTuning().count(bloom) == 50 * 2 * 1024
    assert mp.NormTuning().count(deberta) == 26 * 2 * 768
    t5, whisper = (presets.architecture(n) for n in ("t5-3b", "whisper-large-v2"))
    assert mp.LoRA(4, target_modules=("o_proj",)).count(t5) == 72 * 4 * (1024 + 32 * 128)
    assert mp.LoRA(4, target_modules=("cross.k_proj",)).count(t5) == 24 * 4 * (1024 + 4096)
    assert mp.Prefix(2).count(t5) == 2 * 2 * 48 * 4096
    assert mp.LastK(1).count(t5) == by_hand((8, 1024 * 4096), (2, 1024 * 16384), (3, 1024))
    keys = {path for path in whisper.parameter_shapes if "k_proj" in path}
    assert len(keys) == 96 and not any(path.endswith("bias") for path in keys)
    assert "48 layers" in repr(t5) and "2,851,598,336" in repr(t5)


EXPECTED = """
    LoRA, table 2       rounded rounded rounded rounded slip rounded slip
    LoRA, table 3       slip rounded rounded rounded rounded slip slip
    LoRA, tables 4 and  rounded rounded truncated rounded rounded rounded rounded
                        truncated rounded rounded rounded slip slip
    VeRA, table 1       truncated rounded truncated truncated rounded truncated
                        rounded truncated rounded rounded slip rounded rounded slip slip
    VeRA, tables 2      rounded rounded rounded rounded rounded
    DoRA, table 1       rounded rounded rounded rounded rounded rounded slip
    DoRA, ranks         rounded slip rounded rounded truncated rounded rounded rounded rounded
    MiSS, tables        rounded rounded truncated rounded rounded truncated
    RandLoRA, table     rounded rounded rounded rounded rounded rounded
    LLM-Adapters        rounded
    (IA)³               truncated rounded rounded truncated
    Prompt tuning       exact
    MPT, table 1        truncated rounded
    AdaLoRA             rounded rounded truncated rounded rounded slip
    ReFT                slip
    BOFT                rounded rounded slip
    FourierFT           rounded rounded rounded rounded rounded rounded
    HRA                 rounded
    C3A                 rounded rounded rounded rounded
    RoAd                rounded rounded rounded rounded rounded rounded rounded
    HF PEFT             exact exact exact exact exact exact exact exact exact exact
    torchtune           exact
    microsoft/LoRA      exact
"""
VERDICTS = ("exact", "rounded", "truncated", "slip")


def test_published_figures_follow_or_not_as_they_should():
    rows = list(papers.rows())
    expected = [word for word in EXPECTED.split() if word in VERDICTS]
    assert [row["verdict"].split()[-1] for row in rows] == expected
    assert len(rows) >= 60 and len({row["source"] for row in rows}) == 23


@pytest.mark.parametrize(
    "printed, counted, verdict",
    [
        ("0.3 M", 294_912, "rounded"),
        ("0.2 M", 294_912, "truncated"),
        ("0.29 M", 294_912, "rounded"),
        ("0.28 M", 294_912, "paper's slip"),
        ("0.4 M", 294_912, "paper's slip"),
        ("294 K", 294_912, "truncated"),
        ("294912", 294_912, "exact"),
        ("294913", 294_912, "paper's slip"),
    ],
)
def test_how_a_verdict_is_found(printed, counted, verdict):
    claim = papers.Claim("gpt2", mp.LoRA(8), printed)
    assert claim.counted == counted and claim.verdict == verdict


@pytest.mark.parametrize(
    "printed, of", [("0.2370 %", "base"), ("0.2364 %", "total"), ("124734720", "total")]
)
def test_shares_and_totals_are_of_what_is_said(printed, of):
    claim = papers.Claim("gpt2", mp.LoRA(8), printed, of)
    assert claim.verdict in ("rounded", "exact") and f"of {of}" in str(claim)
    other = papers.Claim("gpt2", mp.LoRA(8), printed, "total" if of == "base" else "base")
    assert other.verdict == "paper's slip"


def run(capsys, line):
    """(exit code, what is printed, what is complained) of one `minipeft count` command."""
    try:
        code = main(["count", *line.split()])
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


def test_the_textbook_example(capsys):
    line = "--model llama-2-7b --method lora --r 16 --targets q_proj,v_proj"
    code, out, _ = run(capsys, f"{line} --json")
    found = json.loads(out)
    assert code == 0 and list(found) == [
        *("trainable", "base", "percent_of_base", "percent_of_total", "formula")
    ]
    assert found["trainable"] == 8_388_608 and found["base"] == 6_738_415_616
    assert round(found["percent_of_base"], 4) == 0.1245
    assert round(found["percent_of_total"], 4) == 0.1243
    each = "32 layers · 2 targets · 16 (4,096 + 4,096)"
    assert found["formula"] == f"r (in + out) a target = {each} = 8,388,608"
    _, out, _ = run(capsys, line)
    assert out.startswith("llama-2-7b\nLoRA(r=16)\n")
    for text in ("8,388,608", "6,746,804,224", "0.1245 % of the base's", "33,554,432", each):
        assert text in out


def test_a_model_by_its_numbers(capsys):
    sizes = "--layers 32 --width 4096 --ffn 14336 --vocab 32000 --heads 32 --kv-heads 8"
    preset = run(capsys, "mistral-7b --json --method ia3")
    assert run(capsys, f"{sizes} --json --method ia3") == preset
    sizes = "--shape gpt2 --layers 12 --width 768 --vocab 50257 --heads 12 --context 1024"
    assert run(capsys, f"{sizes} --json") == run(capsys, "--preset gpt2 --json")
    mixed = "--norm layer --position learned --mlp gelu --bias --tied"
    assert run(capsys, f"{sizes} --shape llama {mixed} --json") == run(capsys, "gpt2 --json")


def test_what_trains_the_base_itself_adds_nothing_to_it():
    config = presets.config("gpt2")
    assert mp.count(config, mp.Full()).percent_of_total == 100.0
    assert mp.count(config, mp.BitFit()).total == config.size
    assert mp.count(config, mp.Head()).total == config.size + 50257 * 768  # it was tied
    assert mp.count(config.with_(tied=False), mp.Head()).total == config.size + 50257 * 768


@dataclass(frozen=True)
class Offset(Method):
    """A method of somebody else's: one vector."""

    def count(self, config):
        return config.width


@dataclass(frozen=True)
class Diagonal(Targeted):
    """And one on matrices."""

    target_modules: tuple[str, ...] = ("q_proj",)

    def parameters_per_matrix(self, n_out, n_in):
        return min(n_out, n_in)


def test_a_method_of_which_no_equation_is_known_counts_too():
    config = presets.config("gpt2")
    assert mp.count(config, Offset()).formula == "count = 768 = 768"
    assert mp.count(config, Diagonal()).formula == (
        "each a target = 12 layers · 1 target · 768 = 9,216"
    )


def test_hyper_parameters_reach_the_method(capsys):
    set_ = "--set r=4 --set target_modules=all-linear --set layers_to_transform=[0,1]"
    _, out, _ = run(capsys, f"gpt2 --method dora {set_} --json")
    per_layer = by_hand((4, 4 * 2 * 768 + 768), (1, 4 * 3840 + 3072), (1, 4 * 3840 + 768))
    assert json.loads(out)["trainable"] == 2 * per_layer


def test_the_papers_table(capsys):
    code, out, _ = run(capsys, "--papers")
    rows = list(papers.rows())
    assert code == 0 and out.rstrip().splitlines()[-1].startswith(f"{len(rows)} counts: ")
    assert all(row["source"] in out and row["configuration"] in out for row in rows)
    _, out, _ = run(capsys, "--papers --json")
    assert json.loads(out) == rows


SMALL = "--layers 2 --width 12 --heads 3 --vocab 7"
BAD = {
    "": "name one preset",
    "llama-2-7c": "did you mean 'llama-2-7b'",
    "GPT2": "did you mean 'gpt2'",
    "gpt2 --model gpt2": "name one preset",
    "gpt2 --layers 3": "name one preset",
    "--papers gpt2": "leave out",
    "--layers 2 --width 10 --heads 3 --vocab 7": "width 10 cannot be divided by heads 3",
    f"{SMALL} --kv-heads 2": "heads 3 cannot be divided by kv_heads 2",
    "--layers 2 --width 9 --heads 3 --vocab 7": "RoPE",
    "--layers 2 --width 12 --heads 3": "--vocab is missing",
    f"{SMALL} --shape gpt2": "--context is missing",
    f"{SMALL} --shape gtp2": "did you mean 'gpt2'",
    f"{SMALL} --mlp swigl": "did you mean 'swiglu'",
    f"{SMALL} --ffn 0": "ffn must be a whole number ≥ 1",
    "--layers 0 --width 12 --heads 3 --vocab 7": "layers must be a whole number ≥ 1",
    "--layers 99999999999 --width 12 --heads 3 --vocab 7": "more than 1,000",
    "--layers two --width 12 --heads 3 --vocab 7": "two",
    f"{SMALL} --kv_heads 3": "did you mean '--kv-heads'",
    "gpt2 --method lorra": "did you mean 'lora'",
    "gpt2 --r 0": "r must be a whole number ≥ 1",
    "gpt2 --r 769": "rank ≤ 768",
    "gpt2 --targets q_prj": "did you mean 'q_proj'",
    "gpt2 --targets gate_proj": "unknown target module 'gate_proj'",
    "gpt2 --targets ,": "no target modules",
    "gpt2 --set lora_alhpa=3": "did you mean 'lora_alpha'",
    "gpt2 --set r": "NAME=VALUE",
    "gpt2 --set r=true": "r must be",
    "gpt2 --set target_modules=5": "target_modules must be",
    "gpt2 --method ia3 --r 4": "unknown option of IA3 'r'",
    "gpt2 --method prompt --set num_virtual_tokens=1024": "1024 virtual tokens",
    "gpt2 --method last-k --set k=13": "the model has 12",
    "llama-7b --method bitfit": "nothing to train",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_one_line_and_exit_2(line, capsys):
    code, out, err = run(capsys, line)
    assert code == 2 and out == "" and err.count("\n") == 1
    assert BAD[line] in err and err.startswith("minipeft count: ")


def test_names_are_suggested_whatever_their_case():
    assert "did you mean 'LoRA'?" in unknown("class", "lora", ["LoRA", "Prefix"])


@given(configs())
def test_nothing_trainable_is_refused_as_attach_refuses_it(config):
    assume(not config.bias and not config.qkv_bias and config.norm == "rms")
    with pytest.raises(ValueError, match="nothing to train"):
        mp.count(config, mp.BitFit())
