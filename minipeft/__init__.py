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
from .count import count
from .data import Examples, Task
from .explain import explain
from .generate import generate
from .hf import export_adapter, import_adapter
from .history import History, Score
from .ledger import ledger
from .nn import Parameter
from .peft import (
    IA3,
    METHODS,
    AdaLoRA,
    Adapter,
    BitFit,
    Bottleneck,
    Compacter,
    DoRA,
    Full,
    Head,
    LastK,
    LlamaAdapter,
    LoHa,
    LoKr,
    LoRA,
    LoRAPlus,
    NormTuning,
    Parallel,
    Pfeiffer,
    PiSSA,
    Prefix,
    Prompt,
    PTuning,
    PTuningV2,
    RSLoRA,
    VeRA,
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
    "IA3", "METHODS", "AdaLoRA", "Adapter", "BitFit", "Bottleneck", "Compacter", "Config",
    "DoRA", "Examples", "Full", "Head", "History", "LastK", "LlamaAdapter", "LoHa", "LoKr",
    "LoRA", "LoRAPlus", "NormTuning", "PTuning", "PTuningV2", "Parallel", "Parameter",
    "Pfeiffer", "PiSSA", "Prefix", "Prompt", "RSLoRA", "Score", "Task", "Tensor", "Transformer",
    "VeRA",
    "adapters", "attach", "combine", "count", "dequantize", "detach", "disabled", "dtype",
    "evaluate", "explain", "export_adapter", "fingerprint", "fit", "generate", "import_adapter",
    "in_use", "ledger", "load_adapter", "load_base", "load_model", "loftq", "merge", "no_grad",
    "quantize", "save_adapter", "save_model", "unmerge", "use",
]  # fmt: skip

__version__ = "0.1.0"
