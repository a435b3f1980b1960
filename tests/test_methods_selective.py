"""What is special to selective fine-tuning: which parameters train, and the tied head."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import minipeft as mp
from laws.equations import Copies
from methods import SPECS
from minipeft.engine.backend import np, to_numpy, xp
from minipeft.engine.tensor import no_grad
from minipeft.peft.base import base_parameters
from spec import proves
from strategies import batch, configs, model
from test_methods_adapters import shake

SIZES = dict(vocab=11, context=16, width=8, layers=3, heads=4, kv_heads=2, ffn=6, init_std=0.3)
GPT2, LLAMA = mp.Config.gpt2(**SIZES), mp.Config.llama(**SIZES)
SELECTIVE = [
    spec
    for spec in SPECS.values()
    if isinstance(spec.equation, Copies) and spec.method is not mp.Full
]
each = pytest.mark.parametrize("method", [spec.small for spec in SELECTIVE], ids=str)


def logits(base, ids):
    with no_grad():
        return to_numpy(base(ids).data)


@given(configs(), st.sampled_from(SELECTIVE), st.data())
def test_what_trains(config, spec, data):
    method = data.draw(spec.draw(config))
    base = model(config)
    wanted = set(spec.equation.paths(method, base))
    adapter = mp.attach(base, method)
    assert set(adapter.copies) == wanted and not adapter.deltas
    assert adapter.count == method.count(config)
    assert {path for path, p in base.named_parameters() if p.requires_grad} == wanted


def test_bitfit_on_a_llama_has_nothing_to_train():
    base = model(LLAMA)
    with pytest.raises(ValueError, match=r"has none.*NormTuning"):
        mp.attach(base, mp.BitFit())
    assert not mp.adapters(base) and all(p.requires_grad for p in base.parameters())


def test_k_is_at_most_the_number_of_blocks():
    assert mp.LastK(3).count(GPT2) == mp.attach(model(GPT2), mp.LastK(3)).count
    for call in (lambda: mp.attach(model(GPT2), mp.LastK(4)), lambda: mp.LastK(4).count(GPT2)):
        with pytest.raises(ValueError, match="has 3 blocks"):
            call()


@each
def test_only_the_copies_are_saved_and_nothing_else_moves(method, tmp_path):
    base, (ids, labels) = model(GPT2), batch(GPT2)
    before = {path: p.data.copy() for path, p in base_parameters(base)}
    plain = logits(base, ids)
    adapter = mp.attach(base, method, name="a")
    history = mp.fit(base, mp.Examples(ids, labels), 12, 3, lr=0.02, warmup=1)
    assert history.loss[-1] < history.loss[0]
    trained = logits(base, ids)
    mp.save_adapter(base, "a", tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {n.removeprefix("base_model.model.") for n in saved} == set(adapter.copies)
    assert sum(a.size for a in saved.values()) == method.count(GPT2)
    with mp.disabled(base):
        assert (logits(base, ids) == plain).all()
    mp.detach(base, "a")
    after = dict(base_parameters(base))
    assert before.keys() == after.keys()
    assert all((after[path].data == a).all() for path, a in before.items())
    loaded = mp.load_adapter(base, tmp_path)
    assert type(loaded.method) is type(method) and (logits(base, ids) == trained).all()


@pytest.mark.parametrize("method, deep", [(mp.LastK(1), False), (mp.NormTuning(), True)])
def test_no_tape_below_the_last_blocks(method, deep):
    base, (ids, _) = model(GPT2), batch(GPT2)
    mp.attach(base, method)
    seen = []

    def spy(f, x, *rest):
        seen.append(x.requires_grad)
        return f(x, *rest)

    for block in base.blocks:
        block.active.append((spy, None))
    base(ids)
    assert seen == [False, deep, deep]


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_its_own_leaves_the_embedding(tied):
    config = GPT2.with_(tied=tied)
    base, (ids, _) = model(config), batch(config)
    table, bare = base.wte.weight, logits(base, ids)
    embedded = base.wte(xp.asarray(ids)).data
    adapter = mp.attach(base, mp.Head())
    assert (logits(base, ids) == bare).all()
    shake(adapter)
    assert (base.wte(xp.asarray(ids)).data == embedded).all() and base.wte.weight is table
    trained = logits(base, ids)
    assert (trained != bare).any()
    assert sum(p.data.size for _, p in base_parameters(base)) == config.size
    mp.use(base, None)
    assert (logits(base, ids) == bare).all()
    if tied:  # tied again: a change of the table is one of the head
        assert base.lm_head.weight is None
        table.data = table.data * 2.0
        assert xp.allclose(base.lm_head(mp.Tensor(xp.eye(8))).data, table.data.T)


def test_merging_a_tied_head_unties_it(tmp_path):
    base, (ids, _) = model(GPT2), batch(GPT2)
    table, bare = base.wte.weight.data.copy(), logits(base, ids)
    shake(mp.attach(base, mp.Head()))
    trained = logits(base, ids)
    receipt = mp.merge(base)
    assert (logits(base, ids) == trained).all() and not base.config.tied
    assert (base.wte.weight.data == table).all()
    mp.save_model(base, tmp_path)
    assert (logits(mp.load_model(tmp_path), ids) == trained).all()
    shake(mp.attach(base, mp.LoRA(2, target_modules=("lm_head",)), "more"))
    on_top = logits(base, ids)
    second = mp.merge(base, "more")
    assert np.allclose(logits(base, ids), on_top, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="as by a later merge; undo that first"):
        mp.unmerge(receipt)
    mp.unmerge(second)
    mp.detach(base, "more")
    mp.unmerge(receipt)
    assert base.config == GPT2 and (logits(base, ids) == trained).all()
    mp.detach(base)
    assert (logits(base, ids) == bare).all() and base.lm_head.weight is None


def test_full_fine_tuning_keeps_a_head_tied():
    base, (ids, _) = model(GPT2), batch(GPT2)
    shake(mp.attach(base, mp.Full()))
    trained = logits(base, ids)
    mp.merge(base)
    assert base.config.tied and base.lm_head.weight is None
    assert (logits(base, ids) == trained).all()


def test_a_head_beside_full_fine_tuning():
    """Both copies in use at once, and all put back in any order."""
    base, (ids, _) = model(GPT2), batch(GPT2)
    bare = logits(base, ids)
    shake(mp.attach(base, mp.Full(), "full"), 1)
    shake(mp.attach(base, mp.Head(), "head"), 2)
    seen = {}
    for names in (["full", "head"], ["head", "full"]):
        mp.use(base, names)
        seen[tuple(names)] = logits(base, ids)
        assert sum(p.data.size for _, p in base_parameters(base)) == GPT2.size
    one, two = seen.values()
    assert (one == two).all() and (one != bare).any()
    mp.use(base, None)
    assert (logits(base, ids) == bare).all()
    mp.use(base, ["full", "head"])
    mp.detach(base, "full")
    mp.detach(base, "head")
    assert (logits(base, ids) == bare).all() and base.lm_head.weight is None


@pytest.mark.parametrize("method", [mp.Head(), mp.LoRA(2, target_modules=("lm_head",))])
def test_untying_below_a_copy_of_the_table_is_refused(method):
    """Full fine-tuning's copy is the head's weight too: a head of its own would hide it."""
    base, (ids, _) = model(GPT2), batch(GPT2)
    mp.attach(base, mp.Full(), "full")
    shake(mp.attach(base, method, "head"))
    wanted = logits(base, ids)
    with pytest.raises(ValueError, match=r"'full' has its own copy of wte.weight"):
        mp.merge(base, "head")
    mp.detach(base, "full")
    mp.merge(base, "head")
    assert not base.config.tied and np.allclose(logits(base, ids), wanted, rtol=0, atol=1e-12)


def test_two_copies_of_one_parameter_are_refused():
    base = model(GPT2)
    mp.attach(base, mp.BitFit(), "biases")
    mp.attach(base, mp.NormTuning(), "norms")
    with pytest.raises(ValueError, match="both replace"):
        mp.use(base, ["biases", "norms"])
    assert list(mp.in_use(base)) == ["norms"]
    mp.attach(base, mp.Head(), "head")
    mp.use(base, ["biases", "head"])  # those have none in common


@each
def test_rows_cannot_have_weights_of_their_own(method):
    base = model(GPT2)
    mp.attach(base, method, "a")
    with pytest.raises(ValueError, match="rows"):
        mp.use(base, rows=["a", None, "a"])


@pytest.mark.parametrize("tied", [True, False])
def test_texts_without_the_tokens_that_train_are_read_as_before(tied):
    """Bit for bit, but for the logits of those tokens where a tied head has their rows."""
    config = LLAMA.with_(tied=tied)
    base, (ids, _) = model(config), batch(config)
    tokens = 2, 7
    ids[np.isin(ids, tokens)] = 1
    before = to_numpy(base(ids).data)
    shake(mp.attach(base, mp.TrainableTokens(tokens)))
    others = np.setdiff1d(np.arange(config.vocab), tokens) if tied else np.arange(config.vocab)
    after = to_numpy(base(ids).data)
    assert (after[..., others] == before[..., others]).all()
    assert ((after != before)[..., tokens].all()) == tied
    ids[:, 0] = tokens[0]
    assert (to_numpy(base(ids).data) != before).any(axis=-1).all()


def test_merged_tokens_leave_a_tied_head_tied():
    config = LLAMA.with_(tied=True)
    base, (ids, _) = model(config), batch(config)
    shake(mp.attach(base, mp.TrainableTokens((2, 7))))
    attached = to_numpy(base(ids).data)
    receipt = mp.merge(base)
    assert base.config.tied and base.lm_head.weight is None
    assert np.allclose(to_numpy(base(ids).data), attached, rtol=0, atol=1e-12)
    mp.unmerge(receipt)
    mp.use(base, None)
    mp.attach(base, mp.Head(), "head")
    with pytest.raises(ValueError, match=r"'head' has its own copy of lm_head\.weight"):
        mp.merge(base, "default")


@proves("lora", "trainable-tokens")
def test_trainable_tokens_are_lora_with_a_frozen_one_hot_factor():
    """On the table: LoRA's A one-hot in the tokens, its B the change of their rows."""
    config = LLAMA.with_(tied=False)
    base, (ids, _) = model(config), batch(config)
    tokens = mp.attach(base, mp.TrainableTokens((2, 7)), "tokens")
    shake(tokens)
    wanted = to_numpy(base(ids).data)
    lora = mp.attach(base, mp.LoRA(2, lora_alpha=2.0, target_modules=("wte",)), "lora")
    (delta,) = lora.deltas.values()
    delta.lora_embedding_A.data = xp.asarray(np.eye(config.vocab)[[2, 7]])
    delta.lora_embedding_B.data = tokens.deltas["wte"].change().data.T
    assert np.allclose(to_numpy(base(ids).data), wanted, rtol=0, atol=1e-12)
