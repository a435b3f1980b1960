"""Parameter-efficient fine-tuning: one file a method, and `base` for what they share."""

from .adapter import Bottleneck
from .base import (
    Adapter,
    adapters,
    attach,
    base_parameters,
    detach,
    disabled,
    in_use,
    use,
)
from .full import Full
from .lora import LoRA
from .merging import Receipt, merge, unmerge
from .prefix import Prefix
from .prompt import Prompt

METHODS = {
    "full": Full,
    "lora": LoRA,
    "adapter": Bottleneck,
    "prefix": Prefix,
    "prompt": Prompt,
}
