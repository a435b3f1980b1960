"""Parameter-efficient fine-tuning (PEFT) in plain NumPy, written to be read.

    import minipeft as mp

    model = mp.load_base()                              # a small pretrained transformer
    mp.attach(model, mp.LoRA(r=8), name="pig-latin")    # freezes it, adds trainable parameters
    mp.fit(model, mp.Task("pig-latin"))                 # trains only those

The rooms, in the order of reading; each imports only from those before it:

    engine   arrays, automatic differentiation, operations, the optimiser
    model    the transformer, text generation, quantised weights
    peft     the methods, and how they are attached, merged and combined
    io       saving, loading, pretrained models, exchange with Hugging Face PEFT
    train    the training loop
    text     the tasks on English words, and conversations for language models
    lab      the commands: compare, count, explain, ledger, figures, pretrain; tune, chat, merge
    course   checks of the exercises in the lessons
"""

import sys as _sys

from .errors import is_command_line as _is_command_line
from .errors import one_line as _one_line

if _is_command_line():
    _sys.excepthook = _one_line

from .engine.backend import dtype
from .engine.tensor import Tensor, no_grad
from .io.checkpoint import (
    load_adapter,
    load_base,
    load_model,
    save_adapter,
    save_model,
)
from .io.hf_adapters import export_adapter, import_adapter
from .io.hf_models import save_pretrained
from .io.identity import fingerprint
from .io.pretrained import from_pretrained
from .lab.count import count
from .lab.explain import explain
from .lab.ledger import ledger
from .model.config import Config
from .model.generate import generate
from .model.layers import Parameter
from .model.quantize import dequantize, quantize
from .model.transformer import Transformer
from .peft.attach import attach, detach, disabled, use
from .peft.base import Adapter, adapters, in_use
from .peft.combine import combine
from .peft.data_start import start_from_data
from .peft.loftq import loftq
from .peft.merge import merge, unmerge
from .peft.methods import *  # noqa: F403  every method's class, and METHODS
from .peft.methods import __all__ as _methods
from .text.save_gguf import save_gguf
from .text.words import Task
from .train.data import Examples
from .train.fit import evaluate, fit
from .train.history import History, Score

__all__ = [
    *_methods, "Adapter", "Config", "Examples", "History", "Parameter", "Score", "Task",
    "Tensor", "Transformer", "adapters", "attach", "combine", "count", "dequantize",
    "detach", "disabled", "dtype", "evaluate", "explain", "export_adapter", "fingerprint",
    "fit", "from_pretrained", "generate", "import_adapter", "in_use", "ledger",
    "load_adapter", "load_base", "load_model", "loftq", "merge", "no_grad", "quantize",
    "save_adapter", "save_gguf", "save_model", "save_pretrained", "start_from_data", "unmerge",
    "use",
]  # fmt: skip

__version__ = "0.1.0"
