"""What `explain` says is what `attach` does, and nothing is changed for it."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

import minipeft as mp
from methods import SPECS
from minipeft.lab.explain import arguments, group_blocks, main
from minipeft.peft.base import base_parameters
from strategies import configs, model

SIZES = dict(vocab=11, context=16, width=32, layers=3, heads=4, kv_heads=2, ffn=24)
CONFIG = mp.Config.gpt2(**SIZES)


def state(base):
    """All that must stay as it is."""
    return (
        {path: (id(p), p.requires_grad) for path, p in base.named_parameters()},
        list(mp.adapters(base)),
        list(mp.in_use(base)),
        [path for path, _ in base.named_modules()],
    )


@pytest.mark.parametrize("name", mp.METHODS)
@given(st.data())
def test_it_says_what_attach_does(name, data):
    config = data.draw(configs())
    base = model(config, precision="float32")
    try:
        method = data.draw(st.one_of(SPECS[name].draw(config), st.just(mp.METHODS[name]())))
    except ValueError:
        return
    before = state(base)
    found = mp.explain(base, method)
    assert state(base) == before
    assert f"{3 * found.bytes:,} for gradients" in repr(found)
    try:
        adapter = mp.attach(base, method)
    except ValueError as error:
        assert found.refused == str(error)
        return
    assert not found.refused and not found.unmatched
    assert found.parameters == adapter.count == method.count(config)
    assert (found.base, found.total) == (config.size, mp.count(config, method).total)
    assert found.bytes == sum(p.data.nbytes for p in adapter.parameters())
    assert {row.path for row in found.rows} == {*adapter.deltas, *adapter.copies}
    for row in found.rows:
        if row.path in adapter.deltas and row.shape:
            assert row.parameters == sum(
                p.data.size for p in adapter.deltas[row.path].parameters()
            )


def test_adapters_in_use_stay_in_use_and_are_not_counted():
    base = model(CONFIG)
    mp.attach(base, mp.Full(), "full")
    mp.attach(base, mp.LoRA(2), "lora")
    mp.use(base, ["lora", "full"])
    before = state(base)
    assert mp.explain(base, mp.LoRA(4)).base == CONFIG.size
    assert state(base) == before


@pytest.mark.parametrize(
    "name, hint",
    [
        ("v_prj", "did you mean 'v_proj'"),
        ("c_attn", "q_proj, k_proj, v_proj"),
        ("query", "did you mean 'q_proj'"),
        ("embed_tokens", "did you mean 'wte'"),
        ("zzzz", "the modules are down_proj, k_proj"),
        ("attn", "the modules are down_proj"),  # a place, but no matrix
    ],
)
def test_a_name_of_nothing_is_told_with_what_it_may_have_meant(name, hint):
    base = model(CONFIG)
    found = mp.explain(base, mp.LoRA(2, target_modules=("q_proj", name)))
    assert list(found.unmatched) == [name] and hint in found.unmatched[name]
    assert [row.path for row in found.rows] == [f"blocks.{i}.attn.q_proj" for i in range(3)]
    assert found.parameters == 3 * 2 * 64 and f"unknown target module {name!r}" in found.refused
    assert repr(name) in repr(found) and hint in repr(found)
    alone = mp.explain(base, mp.LoRA(2, target_modules=(name,)))
    assert not alone.rows and name in alone.unmatched and alone.refused


@pytest.mark.parametrize(
    "method, name",
    [
        (mp.LoRA(2, rank_pattern={"v_prj": 1}), "v_prj"),
        (mp.LoRA(2, alpha_pattern={"down_proj": 1.0}), "down_proj"),
        (mp.LoRA(2, target_modules="all-linear", rank_pattern={"lm_head": 1}), "lm_head"),
        (mp.IA3(("k_proj",), ("down_proj",)), "down_proj"),
    ],
)
def test_patterns_of_nothing_are_told(method, name):
    found = mp.explain(model(CONFIG), method)
    assert list(found.unmatched) == [name] and name in found.refused and found.parameters
    near = "did you mean" if name == "v_prj" else "not among the targets"
    assert near in found.unmatched[name]


def test_a_rank_that_fits_some_only():
    found = mp.explain(model(CONFIG), mp.LoRA(20, target_modules="all-linear"))
    problems = {row.path.split(".")[-1] for row in found.rows if row.problem}
    assert problems == {"k_proj", "v_proj"}  # (16, 32)
    assert all("rank ≤ 16" in row.problem for row in found.rows if row.problem)
    assert found.parameters == 3 * 20 * (64 + 64 + 56 + 56) and "rank ≤ 16" in found.refused


def warned(method, config=CONFIG):
    return " ".join(mp.explain(model(config), method).warnings)


def test_what_is_tied_is_told():
    for method in (mp.Head(), mp.LoRA(2, target_modules=("lm_head",))):
        assert "lm_head would change alone" in warned(method)
        assert "tied" not in warned(method, CONFIG.with_(tied=False))
    assert "wte would change alone" in warned(mp.LoRA(2, target_modules=("wte", "q_proj")))
    assert "352 more parameters" in warned(mp.Head())  # 11 · 32, as merging then shows
    assert "change together" in warned(mp.Full())
    assert not warned(mp.LoRA(2)) and not warned(mp.BitFit())


def test_other_warnings():
    assert "5 of the context's 16 slots" in warned(mp.Prompt(num_virtual_tokens=5))
    assert "cannot be merged" in warned(mp.Pfeiffer(2))
    assert "as many parameters as W has, or more, at blocks.0…2.attn.v_proj" in warned(
        mp.LoRA(11, target_modules=("v_proj",))  # 11 · 48 = 528 ≥ 512
    )
    assert not warned(mp.LoRA(10, target_modules=("v_proj",)))


@pytest.mark.parametrize(
    "method", [mp.BitFit(), mp.LastK(4), mp.LoRA(2, layers_to_transform=3), mp.Prefix(16)]
)
def test_what_attach_refuses_is_refused_with_its_reason(method):
    base = model(mp.Config.llama(**SIZES))
    found = mp.explain(base, method)
    with pytest.raises(ValueError) as error:
        mp.attach(base, method)
    assert found.refused == str(error.value) and found.parameters == 0


def test_only_methods_are_explained():
    with pytest.raises(TypeError, match="LoRA"):
        mp.explain(model(CONFIG), "lora")


@pytest.mark.parametrize(
    "layers, label", [(None, "0…2"), ((0, 1), "0…1"), ((0, 2), "0,2"), (1, "1")]
)
def test_blocks_that_are_alike_are_one_line(layers, label):
    found = mp.explain(model(CONFIG), mp.LoRA(2, layers_to_transform=layers))
    lines = [(path, n) for path, n, _ in group_blocks(found.rows)]
    n = len(found.rows) // 2
    assert lines == [(f"blocks.{label}.attn.{kind}_proj", n) for kind in "qv"]
    assert sum(n * row.parameters for _, n, row in group_blocks(found.rows)) == found.parameters


def run(*given):
    parser = argparse.ArgumentParser()
    arguments(parser)
    main(parser.parse_args(given))


def test_the_command(capsys, tmp_path):
    run("--targets", "q_proj,v_prj")
    text = capsys.readouterr().out
    assert "did you mean 'v_proj'" in text and "blocks.0…2.attn.q_proj" in text
    mp.save_model(model(CONFIG), tmp_path)
    run("--base", str(tmp_path), "--r", "3", "--set", "lora_alpha=6", "--targets", "all-linear")
    text = capsys.readouterr().out
    assert "r=3, lora_alpha=6" in text and f"{CONFIG.size:,}" in text
    run(
        "--method", "parallel", "--set", 'target_modules=["attn"]', "--set", "nonlinearity=gelu"
    )
    assert "blocks.0…2.attn " in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [
        (["--method", "lorra"], "did you mean 'lora"),
        (["--method", "ia3", "--r", "4"], "unknown option of IA3 'r'"),
        (["--set", "r"], "NAME=VALUE"),
        (["--r", "0"], "r must be a whole number"),
        (["--set", "alpha=3"], "unknown option of LoRA 'alpha'"),
    ],
)
def test_wrong_options_of_the_command(given, message):
    with pytest.raises(ValueError, match=message):
        run(*given)


def test_the_shipped_backbone_is_untouched():
    base = mp.load_base()
    mark = mp.fingerprint(base)
    for kind in mp.METHODS.values():
        assert not mp.explain(base, kind()).refused
    assert mp.fingerprint(base) == mark and len(base_parameters(base)) > 0
