"""The config.json of models that people use, and how many parameters they have."""

import json

import pytest

from minipeft.io.hf_configs import config_from_hf, config_to_hf, same_model
from minipeft.io.pretrained import config_of

REAL = {
    "starcoder2-3b": {
        "activation_function": "gelu",
        "architectures": ["Starcoder2ForCausalLM"],
        "attention_dropout": 0.1,
        "attention_softmax_in_fp32": True,
        "bos_token_id": 0,
        "embedding_dropout": 0.1,
        "eos_token_id": 0,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 3072,
        "initializer_range": 0.018042,
        "intermediate_size": 12288,
        "layer_norm_epsilon": 1e-5,
        "max_position_embeddings": 16384,
        "mlp_type": "default",
        "model_type": "starcoder2",
        "norm_epsilon": 1e-5,
        "norm_type": "layer_norm",
        "num_attention_heads": 24,
        "num_hidden_layers": 30,
        "num_key_value_heads": 2,
        "residual_dropout": 0.1,
        "rope_theta": 999999.44,
        "scale_attention_softmax_in_fp32": True,
        "scale_attn_weights": True,
        "sliding_window": 4096,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.37",
        "use_bias": True,
        "use_cache": True,
        "vocab_size": 49152,
    },
    "llama-3.2-1b": {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 128000,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "qwen2.5": {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "hidden_size": 896,
        "initializer_range": 0.02,
        "intermediate_size": 4864,
        "max_position_embeddings": 32768,
        "max_window_layers": 21,
        "model_type": "qwen2",
        "num_attention_heads": 14,
        "num_hidden_layers": 24,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.43.1",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "pythia": {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 512,
        "initializer_range": 0.02,
        "intermediate_size": 2048,
        "layer_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": 8,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 50304,
    },
    "opt": {
        "_name_or_path": "facebook/opt-125m",
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 3072,
        "hidden_size": 768,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 2048,
        "model_type": "opt",
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "transformers_version": "4.21",
        "use_cache": True,
        "vocab_size": 50272,
        "word_embed_proj_dim": 768,
    },
    "gpt2": {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 50256,
        "embd_pdrop": 0.1,
        "eos_token_id": 50256,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-5,
        "model_type": "gpt2",
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "resid_pdrop": 0.1,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        "vocab_size": 50257,
    },
    "phi3": {
        "_name_or_path": "Phi-3-mini-4k-instruct",
        "architectures": ["Phi3ForCausalLM"],
        "attention_dropout": 0.0,
        "auto_map": {"AutoConfig": "x"},
        "bos_token_id": 1,
        "embd_pdrop": 0.0,
        "eos_token_id": 32000,
        "hidden_act": "silu",
        "hidden_size": 3072,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "model_type": "phi3",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.40.2",
        "use_cache": True,
        "attention_bias": False,
        "vocab_size": 32064,
    },
    "smollm3": {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "eos_token_id": 128012,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 11008,
        "layer_types": ["full_attention"] * 36,
        "max_position_embeddings": 65536,
        "max_window_layers": 28,
        "mlp_bias": False,
        "model_type": "smollm3",
        "no_rope_layer_interval": 4,
        "no_rope_layers": ([1, 1, 1, 0] * 9),
        "num_attention_heads": 16,
        "num_hidden_layers": 36,
        "num_key_value_heads": 4,
        "pad_token_id": 128004,
        "pretraining_tp": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "sliding_window": None,
        "transformers_version": "4.54",
        "use_cache": False,
        "use_sliding_window": False,
        "vocab_size": 128256,
    },
    "granite-3": {
        "architectures": ["GraniteForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.1,
        "attention_multiplier": 0.015625,
        "bos_token_id": 0,
        "embedding_multiplier": 12.0,
        "eos_token_id": 0,
        "hidden_act": "silu",
        "hidden_size": 2048,
        "initializer_range": 0.02,
        "intermediate_size": 8192,
        "logits_scaling": 8.0,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "model_type": "granite",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "pad_token_id": 0,
        "residual_multiplier": 0.22,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 5000000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 49155,
    },
    "mistral": {
        "architectures": ["MistralForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "model_type": "mistral",
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.34",
        "use_cache": True,
        "vocab_size": 32000,
    },
}

# as transformers counts them; OPT's two spare positions, 2 · 768 parameters, are not here
PARAMETERS = {
    "starcoder2-3b": 3_030_371_328,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5": 494_032_768,
    "pythia": 70_426_624,
    "opt": 125_237_760,
    "gpt2": 124_439_808,
    "phi3": 3_821_079_552,
    "smollm3": 3_075_098_624,
    "granite-3": 2_533_531_648,
    "mistral": 7_241_732_096,
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_config_is_the_model_that_it_is_of(name):
    family, config = config_from_hf(REAL[name])
    assert config.size == PARAMETERS[name]
    again = config_from_hf(config_to_hf(config, REAL[name]["model_type"]))
    assert again[0] is family and same_model(again[1], config)


def test_what_real_configs_say_is_heard():
    of = {name: config_from_hf(values)[1] for name, values in REAL.items()}
    assert of["llama-3.2-1b"].rope_scaling == (32.0, 1.0, 4.0, 8192.0)
    assert of["mistral"].window == of["starcoder2-3b"].window == 4096
    assert of["phi3"].window == 2047 and of["qwen2.5"].window is None
    assert of["smollm3"].nope == tuple(range(3, 36, 4))
    assert of["pythia"].rotary == 0.25 and of["pythia"].parallel
    assert of["granite-3"].logits_scale == 8.0 and of["granite-3"].residual_scale == 0.22


SCALED = REAL["llama-3.2-1b"]["rope_scaling"]
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
OTHERWISE = {  # {what changes a logit in transformers: (model, keys, what the error says)}
    "both ways": ("llama-3.2-1b", {"is_causal": False}, "is_causal = False, here"),
    "both ways, by null": ("gpt2", {"is_causal": None}, "is_causal = None"),
    "two RoPEs": ("llama-3.2-1b", {"rope_parameters": PLAIN}, "differ; leave out one"),
    "two bases": (
        "mistral", {"rope_scaling": PLAIN | {"rope_theta": 1e6}, "rope_parameters": PLAIN},
        "differ; leave out one",
    ),
    "two contexts": (
        "llama-3.2-1b", {"original_max_position_embeddings": 4096}, "leave out one",
    ),
    "another word for the share": (
        "pythia", {"partial_rotary_factor": 0.5}, "rotary_pct, and so 0.25; leave it out",
    ),
    "another word for the base": ("pythia", {"rope_theta": 500.0}, "and so 10000; leave"),
    "the words of another family": ("mistral", {"rotary_emb_base": 500}, "rotary_emb_base"),
    "a Phi with Llama's RoPE": ("phi3", {"rope_scaling": SCALED}, "rope_type = 'llama3'"),
    "neither tied nor untied": ("gpt2", {"tie_word_embeddings": None}, "tie_word_embeddings"),
    "no width": ("mistral", {"intermediate_size": None}, "no intermediate_size"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERWISE)
def test_what_changes_a_logit_is_refused(what):
    model, keys, text = OTHERWISE[what]
    with pytest.raises(ValueError, match=text):
        config_from_hf(REAL[model] | keys)


USUAL = {  # {what a file leaves out: (model, its keys, field, what transformers has there)}
    "SmolLM 3's base of RoPE": ("smollm3", ["rope_theta"], "rope_theta", 2e6),
    "Llama's": ("llama-3.2-1b", ["rope_theta"], "rope_theta", 1e4),
    "the share of a head": ("pythia", ["rotary_pct", "rotary_emb_base"], "rotary", 0.25),
    "Mistral's heads": ("mistral", ["num_key_value_heads"], "kv_heads", 8),
    "SmolLM 3's heads": ("smollm3", ["num_key_value_heads"], "kv_heads", 4),
    "Starcoder's heads": ("starcoder2-3b", ["num_key_value_heads"], "kv_heads", 2),
    "Llama's heads": ("llama-3.2-1b", ["num_key_value_heads"], "kv_heads", 32),
    "Mistral's window": ("mistral", ["sliding_window"], "window", 4096),
}


@pytest.mark.parametrize("what", USUAL)
def test_what_is_left_out_is_what_transformers_has_there(what):
    model, keys, field, value = USUAL[what]
    values = {k: v for k, v in REAL[model].items() if k not in keys}
    assert getattr(config_from_hf(values)[1], field) == value


def test_a_qwen_has_its_window_from_layer_28_on_if_nothing_else_is_told():
    values = REAL["qwen2.5"] | {"use_sliding_window": True, "sliding_window": 8}
    del values["max_window_layers"]
    assert config_from_hf(values)[1].window is None
    with pytest.raises(ValueError, match="some of its layers"):
        config_from_hf(values | {"num_hidden_layers": 30})
    del values["sliding_window"]
    assert config_from_hf(values | {"max_window_layers": 0})[1].window == 4096


def test_what_is_told_twice_may_be_the_same():
    values = REAL["llama-3.2-1b"] | {"rope_parameters": SCALED, "is_causal": True}
    assert config_from_hf(values)[1] == config_from_hf(REAL["llama-3.2-1b"])[1]
    older = REAL["pythia"] | {"rope_theta": 10000, "partial_rotary_factor": 0.25}
    assert config_from_hf(older)[1] == config_from_hf(REAL["pythia"])[1]


def test_what_to_do_about_another_model_is_not_to_save_it_again(tmp_path):
    for keys in ({"rope_scaling": {"rope_type": "yarn"}}, {"model_type": "gemma"}):
        path = tmp_path / "config.json"
        path.write_text(json.dumps(REAL["llama-3.2-1b"] | keys))
        with pytest.raises(ValueError, match=r"; give another model$") as error:
            config_of(tmp_path)
        assert str(error.value).startswith(str(path))
    path.write_text(json.dumps(REAL["llama-3.2-1b"] | {"vocab_size": -1}))
    with pytest.raises(ValueError, match=r"vocab must .* save it again"):
        config_of(tmp_path)
