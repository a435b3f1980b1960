"""The presets have the parameters of transformers' models, which are not allocated for it."""

import math
from collections import Counter

import pytest
from hf import torch
from hf import transformers as hf

from minipeft.lab import presets


def gpt2(width, layers, heads, context=1024):
    config = hf.GPT2Config(n_embd=width, n_layer=layers, n_head=heads, n_positions=context)
    return hf.GPT2LMHeadModel, config


def llama(width, layers, heads, ffn, kv_heads=None, vocab=32000, tied=False, kind="Llama"):
    config = getattr(hf, f"{kind}Config")(
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        tie_word_embeddings=tied,
    )
    return getattr(hf, f"{kind}ForCausalLM"), config


def bert(width, layers, heads, kind="Bert", **other):
    config = getattr(hf, f"{kind}Config")(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        **other,
    )
    return getattr(hf, f"{kind}Model"), config


def roberta(*sizes):
    return bert(
        *sizes, "Roberta", vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
    )


def t5(width, layers, heads, ffn, head_width=64, *, gated=True, kind="T5", vocab=32128):
    config = getattr(hf, f"{kind}Config")(
        vocab_size=vocab,
        d_model=width,
        d_kv=head_width,
        d_ff=ffn,
        num_layers=layers,
        num_heads=heads,
        feed_forward_proj="gated-gelu" if gated else "relu",
    )
    return getattr(hf, f"{kind}ForConditionalGeneration"), config


DEBERTA = dict(
    vocab_size=128100,
    type_vocab_size=0,
    relative_attention=True,
    position_buckets=256,
    norm_rel_ebd="layer_norm",
    share_att_key=True,
    pos_att_type=["p2c", "c2p"],
    position_biased_input=False,
)
WHISPER = dict(
    vocab_size=51865,
    d_model=1280,
    encoder_layers=32,
    decoder_layers=32,
    encoder_attention_heads=20,
    decoder_attention_heads=20,
    encoder_ffn_dim=5120,
    decoder_ffn_dim=5120,
)

THEIRS = {
    "gpt2": gpt2(768, 12, 12),
    "gpt2-medium": gpt2(1024, 24, 16),
    "gpt2-large": gpt2(1280, 36, 20),
    "gpt2-xl": gpt2(1600, 48, 25),
    "gpt3-175b": gpt2(12288, 96, 96, context=2048),
    "llama-7b": llama(4096, 32, 32, 11008),
    "llama-13b": llama(5120, 40, 40, 13824),
    "llama-2-7b": llama(4096, 32, 32, 11008),
    "llama-2-13b": llama(5120, 40, 40, 13824),
    "llama-3-8b": llama(4096, 32, 32, 14336, 8, vocab=128256),
    "mistral-7b": llama(4096, 32, 32, 14336, 8, kind="Mistral"),
    "smollm2-135m": llama(576, 30, 9, 1536, 3, vocab=49152, tied=True),
    "qwen2.5-3b": llama(2048, 36, 16, 11008, 2, vocab=151936, tied=True, kind="Qwen2"),
    "phi-2": llama(2560, 32, 32, 10240, vocab=51200, kind="Phi"),
    "opt-6.7b": (
        hf.OPTForCausalLM,
        hf.OPTConfig(
            hidden_size=4096,
            word_embed_proj_dim=4096,
            ffn_dim=16384,
            num_hidden_layers=32,
            num_attention_heads=32,
        ),
    ),
    "bloomz-560m": (
        hf.BloomForCausalLM,
        hf.BloomConfig(vocab_size=250880, hidden_size=1024, n_layer=24, n_head=16),
    ),
    "bert-base": bert(768, 12, 12),
    "bert-large": bert(1024, 24, 16),
    "roberta-base": roberta(768, 12, 12),
    "roberta-large": roberta(1024, 24, 16),
    "deberta-v3-base": bert(768, 12, 12, "DebertaV2", **DEBERTA),
    **{f"t5-{size}": t5(*sizes, gated=False) for size, sizes in presets.T5_FIRST.items()},
    **{
        f"{name}-{size}": t5(*sizes)
        for name in ("t5-v1.1", "flan-t5")
        for size, sizes in presets.T5_LATER.items()
    },
    "t0-3b": t5(2048, 24, 32, 5120),
    "mt0-large": t5(1024, 24, 16, 2816, kind="MT5", vocab=250112),
    "whisper-large-v2": (hf.WhisperForConditionalGeneration, hf.WhisperConfig(**WHISPER)),
}
UNTIED = (
    "t5-v1.1",
    "flan-t5",
    "t0",
    "mt0",
)  # as they were published; transformers 5 ties all T5
FUSED = ("gpt2", "gpt3", "bloomz")  # query, key and value are one matrix there


@pytest.mark.parametrize("name", THEIRS)
def test_a_preset_has_the_parameters_of_hfs_model(name):
    kind, config = THEIRS[name]
    with torch.device("meta"):
        model = kind(config)
    shapes = [tuple(p.shape) for p in model.parameters()]
    if name.startswith(UNTIED) and model.lm_head.weight is model.shared.weight:
        shapes.append(tuple(model.lm_head.weight.shape))
    ours = presets.architecture(name)
    assert ours.size == sum(map(math.prod, shapes))
    if not name.startswith(FUSED):
        assert Counter(ours.parameter_shapes.values()) == Counter(shapes)


def test_every_preset_has_its_model():
    assert THEIRS.keys() == presets.PRESETS.keys()
