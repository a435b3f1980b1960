"""minipeft: parameter-efficient fine-tuning in plain NumPy, to be read.

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
from .nn import Parameter
from .peft import (
    METHODS,
    Adapter,
    Bottleneck,
    Full,
    LoRA,
    Prefix,
    Prompt,
    adapters,
    attach,
    detach,
    disabled,
    in_use,
    merge,
    unmerge,
    use,
)
from .train import History, evaluate, fit
from .transformer import Transformer

__version__ = "0.1.0"
