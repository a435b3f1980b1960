"""Parameter-efficient fine-tuning: one file a method, on `base`, `attach` and `merge`."""

from .adalora import AdaLoRA
from .bottleneck import Bottleneck, Pfeiffer
from .compacter import Compacter
from .dora import DoRA
from .full import Full
from .ia3 import IA3
from .llama_adapter import LlamaAdapter
from .loha import LoHa
from .lokr import LoKr
from .lora import LoRA
from .loraplus import LoRAPlus
from .p_tuning import PTuning
from .parallel import Parallel
from .pissa import PiSSA
from .prefix import Prefix, PTuningV2
from .prompt import Prompt
from .rslora import RSLoRA
from .selective import BitFit, Head, LastK, NormTuning
from .vera import VeRA

__all__ = [
    "IA3", "METHODS", "AdaLoRA", "BitFit", "Bottleneck", "Compacter",
    "DoRA", "Full", "Head", "LastK", "LlamaAdapter", "LoHa", "LoKr", "LoRA", "LoRAPlus",
    "NormTuning", "PTuning", "PTuningV2", "Parallel", "Pfeiffer", "PiSSA", "Prefix", "Prompt",
    "RSLoRA", "VeRA",
]  # fmt: skip

METHODS = {
    "full": Full,
    "bitfit": BitFit,
    "norms": NormTuning,
    "last-k": LastK,
    "head": Head,
    "lora": LoRA,
    "rslora": RSLoRA,
    "lora+": LoRAPlus,
    "pissa": PiSSA,
    "dora": DoRA,
    "vera": VeRA,
    "adalora": AdaLoRA,
    "loha": LoHa,
    "lokr": LoKr,
    "ia3": IA3,
    "adapter": Bottleneck,
    "pfeiffer": Pfeiffer,
    "parallel": Parallel,
    "compacter": Compacter,
    "prefix": Prefix,
    "prompt": Prompt,
    "p-tuning": PTuning,
    "llama-adapter": LlamaAdapter,
}
