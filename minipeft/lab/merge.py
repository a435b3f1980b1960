"""Adds an adapter to a pretrained model's weights, and writes the specialised model.

minipeft merge smollm2 support merged                        for transformers
minipeft merge smollm2 support support.gguf --gguf q8_0      for llama.cpp
minipeft merge smollm2 support merged --quantize nf4         if it was tuned on a base in nf4

The result needs no adapter any more, and is as fast as the model before. OUT must be new: a
file, or a folder with anything in it, is never replaced.

An adapter that was tuned on a quantised base is added to the values that this base has, as it
has learnt to change these: they keep the rounding, but are written dequantised.
"""

from pathlib import Path

from ..engine.backend import np, to_numpy
from ..engine.tensor import no_grad
from ..io.checkpoint import load_adapter
from ..io.files import check_writable
from ..io.hf_models import save_pretrained
from ..model.quantize import LEVELS
from ..peft.base import in_use
from ..peft.merge import merge
from ..text.save_gguf import save_gguf
from .outputs import check_new
from .tune import BITS, check_adapter, load_chat

SAMPLE = "The quick brown fox jumps over the lazy dog. 0 1 2 3 4 5 6 7 8 9"


def merged_difference(chat, name):
    """Merges an adapter; returns max |Δ logit| / max |logit| on a sentence."""
    ids = [chat.tokenizer.encode(SAMPLE)]
    with no_grad():
        attached = to_numpy(chat.model(ids).data)
        merge(chat.model, name)
        merged = to_numpy(chat.model(ids).data)
    return float(np.abs(merged - attached).max() / np.abs(attached).max())


def arguments(parser):
    """Adds the options of `minipeft merge`."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file, or smollm2")
    parser.add_argument("adapter", metavar="DIR", help="folder that `minipeft tune` wrote")
    text = "folder to write, new or empty; with --gguf the file to write, a new one"
    parser.add_argument("out", metavar="OUT", help=text)
    text = "as `minipeft tune` was given it: the adapter is added to the dequantised base"
    parser.add_argument("--quantize", choices=BITS, help=text)
    text = "write a GGUF file, with its matrices in this form"
    parser.add_argument("--gguf", choices=("q8_0", "f16", "f32"), help=text)


def main(options):
    """Runs `minipeft merge`."""
    out = Path(options.out)
    check_new(out)
    check_writable(out if options.gguf else out / "model.safetensors")
    check_adapter(options.adapter, options.quantize)
    chat = load_chat(options.model, options.quantize)
    load_adapter(chat.model, options.adapter)
    (name,) = in_use(chat.model)
    difference = merged_difference(chat, name)
    print(f"merged {name!r}: the logits differ by {difference:.1e} of the largest")
    if options.quantize in LEVELS:
        print(f"the base keeps the rounding of {options.quantize}, and is written dequantised")
    if options.gguf:
        save_gguf(chat.model, out, options.gguf)
        print(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB), which llama.cpp runs")
        return
    save_pretrained(chat.model, out)
    if not (out / "tokenizer.json").is_file():
        chat.tokenizer.save(out)
    print(f"wrote {out}/, which transformers and `minipeft chat` read")
