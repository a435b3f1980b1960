"""Known models by name: the sizes that each member of a family has.

presets.architecture("roberta-base").size      124,645,632
presets.config("llama-2-7b")                    a Config, which a Transformer can be made of
"""

from ..errors import unknown
from ..model.config import Config
from .architectures import (
    bert,
    bloom,
    deberta,
    gpt2,
    llama,
    opt,
    phi,
    qwen,
    roberta,
    t5,
    whisper,
)

T5_FIRST = {  # width, layers of each half, heads, ffn, head width
    "small": (512, 6, 8, 2048, 64),
    "base": (768, 12, 12, 3072, 64),
    "large": (1024, 24, 16, 4096, 64),
    "3b": (1024, 24, 32, 16384, 128),
    "11b": (1024, 24, 128, 65536, 128),
}
T5_LATER = {  # width, layers of each half, heads, ffn
    "small": (512, 8, 6, 1024),
    "base": (768, 12, 12, 2048),
    "large": (1024, 24, 16, 2816),
    "xl": (2048, 24, 32, 5120),
    "xxl": (4096, 24, 64, 10240),
}
GROUPED = dict(kv_heads=8, ffn=14336)  # grouped-query attention, of Llama 3 and Mistral

PRESETS = {
    "gpt2": gpt2(768, 12, 12),
    "gpt2-medium": gpt2(1024, 24, 16),
    "gpt2-large": gpt2(1280, 36, 20),
    "gpt2-xl": gpt2(1600, 48, 25),
    "gpt3-175b": gpt2(12288, 96, 96, context=2048),
    "llama-7b": llama(4096, 32, 32, 11008),
    "llama-13b": llama(5120, 40, 40, 13824),
    "llama-2-7b": llama(4096, 32, 32, 11008, context=4096),
    "llama-2-13b": llama(5120, 40, 40, 13824, context=4096),
    "llama-3-8b": llama(4096, 32, 32, vocab=128256, context=8192, rope_theta=5e5, **GROUPED),
    "mistral-7b": llama(4096, 32, 32, context=32768, **GROUPED),
    "smollm2-135m": llama(
        576, 30, 9, 1536, kv_heads=3, vocab=49152, context=8192, tied=True, rope_theta=1e5
    ),
    "qwen2.5-3b": qwen(2048, 36, 16, 2, 11008),
    "phi-2": phi(2560, 32, 32),
    "opt-6.7b": opt(4096, 32, 32),
    "bloomz-560m": bloom(1024, 24, 16),
    "bert-base": bert(768, 12, 12),
    "bert-large": bert(1024, 24, 16),
    "roberta-base": roberta(768, 12, 12),
    "roberta-large": roberta(1024, 24, 16),
    "deberta-v3-base": deberta(768, 12, 12),
    **{
        f"t5-{size}": t5(32128, *sizes, head_width=head_width, gated=False, tied=True)
        for size, (*sizes, head_width) in T5_FIRST.items()
    },
    **{
        f"{name}-{size}": t5(32128, *sizes)
        for name in ("t5-v1.1", "flan-t5")
        for size, sizes in T5_LATER.items()
    },
    "t0-3b": t5(32128, *T5_LATER["xl"]),
    "mt0-large": t5(250112, *T5_LATER["large"]),
    "whisper-large-v2": whisper(51865, 1280, 32, 20),
}


def architecture(name):
    """Returns the Config or Architecture of a preset.

    Raises ValueError for an unknown name, with the nearest that exist.
    """
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]


def config(name):
    """Returns the Config of a preset.

    Raises ValueError for an unknown name, and for a model that is an Architecture.
    """
    model = architecture(name)
    if isinstance(model, Config):
        return model
    names = [name for name, preset in PRESETS.items() if isinstance(preset, Config)]
    raise ValueError(
        f"{name} is not of this package's shape, so that it can only be counted; "
        f"those that can be built are {', '.join(names)}"
    )
