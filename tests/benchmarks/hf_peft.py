"""The step of Hugging Face's transformers and peft.  python hf_peft.py SIZE METHOD

HF PEFT has no bottleneck adapters: here they are modules of PyTorch hooked into HF's model.
GPT-2 there has one layer for queries, keys and values: its LoRA is on all three, of one A.
"""

import gc
import sys
import time

import peft
import torch
from handwritten import bottlenecks
from hf import hf_model, hf_module
from torch_step import device, peak, stepper

from cases import METHODS, SLOTS, M, R, batch, config, model, serve, threads
from minipeft.engine.backend import np


def attached(net, method, shape):
    """HF's model with the method on it."""
    gpt2 = shape == "gpt2"
    targets = ["c_attn"] if gpt2 else ["q_proj", "v_proj"]
    more = ["c_attn", "c_proj", "c_fc"] if gpt2 else "all-linear"
    common = dict(task_type="CAUSAL_LM")
    lora = dict(r=R, lora_alpha=8, fan_in_fan_out=gpt2, **common)
    if method == "full":
        return net
    if method == "adapter":
        return bottlenecks(("attn", "mlp"), M, METHODS["adapter"].nonlinearity)(net)
    configs = {
        "lora": lambda: peft.LoraConfig(target_modules=targets, **lora),
        "lora-all": lambda: peft.LoraConfig(target_modules=more, **lora),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=SLOTS, **common),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=SLOTS, **common),
    }
    return peft.get_peft_model(net, configs[method]())


def carry(adapter, theirs, method, config):
    """Copy what trains from ours to HF's; whether all of it could be copied."""
    named = dict(theirs.named_parameters())
    if method in ("full",):
        return True
    if method.startswith("lora") and config.norm == "layer":
        return False  # B is zero in both: only the first loss is the same
    for path, p in adapter.named_parameters():
        module, _, name = path.rpartition(".")
        if method.startswith("lora"):
            their = f"base_model.model.{hf_module(module, config)}.{name}.default.weight"
        elif method == "adapter":
            their = f"{hf_module(module, config)}.adapter.{name}"
        else:
            their = "prompt_encoder.default.embedding.weight"
        with torch.no_grad():
            named[their].copy_(torch.tensor(np.asarray(p.data)))
    return True


def fastest(theirs, logits, ids):
    """Choose the faster of HF's two attentions for CPUs; return its name."""
    inner = theirs.get_base_model() if hasattr(theirs, "get_base_model") else theirs
    seconds = {"eager": [], "sdpa": []}
    for _ in range(3):
        for name in seconds:
            inner.set_attn_implementation(name)
            began = time.perf_counter()
            total = logits(torch.tensor(ids, device=device())).sum()
            total.backward()
            total.item()  # waits for a GPU
            seconds[name].append(time.perf_counter() - began)
    best = min(seconds, key=lambda name: min(seconds[name]))
    inner.set_attn_implementation(best)
    theirs.zero_grad()
    return best


def main(size, method):
    torch.set_num_threads(threads())
    net, adapter = model(size, method if method != "full" else None)
    theirs = hf_model(net)
    theirs = attached(theirs, method, "gpt2" if config(size).norm == "layer" else "llama")
    same = carry(adapter, theirs, method, config(size))
    theirs.to(device())
    del net, adapter
    ids, labels = batch(size)

    def logits(ids):
        return theirs(input_ids=ids, use_cache=False).logits[:, -ids.shape[1] :]

    theirs.train()
    attention = fastest(theirs, logits, ids)
    gc.collect()
    serve(stepper(theirs, logits, ids, labels), peak(), same=same, attention=attention)


if __name__ == "__main__":
    main(*sys.argv[1:])
