"""Parameter-efficient fine-tuning: one file a method, on `base`, `attaching` and `merging`."""

from .adapter import Bottleneck, Pfeiffer
from .attaching import attach, detach, disabled, use
from .base import Adapter, adapters, base_parameters, in_use
from .combine import Combination, combine
from .compacter import Compacter
from .full import Full
from .llama_adapter import LlamaAdapter
from .loftq import loftq
from .lora import LoRA
from .merging import Receipt, merge, unmerge
from .parallel import Parallel
from .prefix import Prefix, PTuningV2
from .prompt import Prompt
from .ptuning import PTuning

__all__ = [
    "METHODS", "Adapter", "Bottleneck", "Combination", "Compacter", "Full", "LlamaAdapter",
    "LoRA", "PTuning", "PTuningV2", "Parallel", "Pfeiffer", "Prefix", "Prompt", "Receipt",
    "adapters", "attach", "base_parameters", "combine", "detach", "disabled", "in_use", "loftq",
    "merge", "unmerge", "use",
]  # fmt: skip

METHODS = {
    "full": Full,
    "lora": LoRA,
    "adapter": Bottleneck,
    "pfeiffer": Pfeiffer,
    "parallel": Parallel,
    "compacter": Compacter,
    "prefix": Prefix,
    "prompt": Prompt,
    "p-tuning": PTuning,
    "llama-adapter": LlamaAdapter,
}
