"""Parameter-efficient fine-tuning in plain NumPy, to be read.

import minipeft as mp

model = mp.load_base()
mp.attach(model, mp.LoRA(r=8), name="pig-latin")
mp.fit(model, mp.Task("pig-latin"))
"""

from .autograd import Tensor, no_grad
from .backend import dtype
from .checkpoint import (
    fingerprint,
    load_adapter,
    load_base,
    load_model,
    save_adapter,
    save_model,
)
from .config import Config
from .data import Examples, Task
from .generate import generate
from .history import History, Score
from .nn import Parameter
from .peft import (
    METHODS,
    Adapter,
    Bottleneck,
    Compacter,
    Full,
    LlamaAdapter,
    LoRA,
    Parallel,
    Pfeiffer,
    Prefix,
    Prompt,
    PTuning,
    PTuningV2,
    adapters,
    attach,
    combine,
    detach,
    disabled,
    in_use,
    loftq,
    merge,
    unmerge,
    use,
)
from .quantize import dequantize, quantize
from .train import evaluate, fit
from .transformer import Transformer

__all__ = [
    "METHODS", "Adapter", "Bottleneck", "Compacter", "Config", "Examples", "Full", "History",
    "LlamaAdapter", "LoRA", "PTuning", "PTuningV2", "Parallel", "Parameter", "Pfeiffer",
    "Prefix", "Prompt", "Score", "Task", "Tensor", "Transformer",
    "adapters", "attach", "combine", "dequantize", "detach", "disabled", "dtype", "evaluate",
    "fingerprint", "fit", "generate", "in_use", "load_adapter", "load_base", "load_model",
    "loftq", "merge", "no_grad", "quantize", "save_adapter", "save_model", "unmerge", "use",
]  # fmt: skip

__version__ = "0.1.0"
