"""Writes tests/fixtures/parity.safetensors: what PyTorch and HF compute, for days without them.

    python tests/parity/record.py

For each row: the base and the trained numbers that both began with, and in float64 the logits,
the gradients and the losses of 20 AdamW steps that came out over there. tests/test_fixtures.py
computes the same with minipeft alone.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1])]

from hf import hf_logits, hf_loss  # noqa: E402
from pairs import Pair  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

import minipeft as mp  # noqa: E402
from methods import ROWS  # noqa: E402
from minipeft.engine.backend import np  # noqa: E402
from minipeft.peft.base import base_parameters  # noqa: E402
from strategies import batch  # noqa: E402

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity.safetensors"
SIZES = dict(vocab=11, context=16, width=12, layers=1, heads=2, ffn=10, init_std=0.2)
CONFIGS = {"llama": mp.Config.llama(**SIZES, kv_heads=1), "gpt2": mp.Config.gpt2(**SIZES)}


def recorded(name):
    """(arrays, about) of one row: numbers of PyTorch's, in minipeft's order."""
    row = ROWS[name]
    config = CONFIGS[row.shape].with_(tied=row.tied)
    pair = Pair(row, "float64", config=config).shake()
    ids, labels = batch(config, B=2, T=5)
    base, trained = dict(base_parameters(pair.ours)), dict(pair.adapter.named_parameters())
    arrays = {"base": joined(p.data for p in base.values())}
    arrays["trained"] = joined(p.data for p in trained.values())
    logits = hf_logits(pair.theirs, ids)
    hf_loss(logits, labels).backward()
    gradients = pair.as_ours({name: p.grad for name, p in pair.hf.items()})
    arrays["gradient"] = joined(gradients[path] for path in trained)
    for p in pair.hf.values():
        p.grad = None
    arrays["logits"], arrays["losses"] = logits.detach().numpy(), pair.train()[1]
    kind = next(key for key, method in mp.METHODS.items() if method is type(row.ours))
    about = {"method": kind, "options": asdict(row.ours), "config": asdict(config)}
    return arrays, about | {"clip": row.clip}


def joined(arrays):
    """Their numbers, one after the other."""
    return np.concatenate([np.ravel(a) for a in arrays])


def everything(names):
    """(arrays, {row: about}) of these rows; a base that several share is kept once."""
    arrays, told = {}, {}
    for name in names:
        found, about = recorded(name)
        about["base"] = f"{about['config']['norm']}, tied {about['config']['tied']}"
        arrays[f"base/{about['base']}"] = found.pop("base")
        arrays |= {f"{name}/{key}": np.ascontiguousarray(a) for key, a in found.items()}
        told[name] = about
    return arrays, told


if __name__ == "__main__":
    arrays, told = everything(name for name, row in ROWS.items() if row.recorded)
    save_file(arrays, FIXTURES, {"rows": json.dumps(told)})
    print(f"wrote {FIXTURES}: {FIXTURES.stat().st_size:,} bytes, {len(told)} rows")
