"""Read thousands of damaged safetensors and GGUF files; the libraries of those names judge.

    python tests/tools/fuzz_files.py [--mutants 6000] [--seed 1]

Each must be refused in one sentence that names the file, or hold what the library reads, and
take no more memory than twice the file. Without the library gguf, a GGUF file must be read as
it is when it is written again. Then one process saves two adapters over one another
while another loads them: each load must be of one save. Exit 1 if anything else happens.
"""

import argparse
import importlib.util
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent), str(TESTS / "parity")]

import numpy as np  # noqa: E402

import gguf_files  # noqa: E402
import minipeft as mp  # noqa: E402
import test_safetensors  # noqa: E402

judge_gguf = gguf_files.judge
if importlib.util.find_spec("gguf"):
    from gguf_library import judged as judge_gguf

CONFIG = mp.Config.llama(vocab=11, context=16, width=8, layers=2, heads=2, ffn=6)
LOADS = 1000


def keep_saving(folder):
    """Save two adapters into one folder, in turns, for ever."""
    net = mp.Transformer(CONFIG, 0)
    for alpha in (1.0, 2.0):
        for p in mp.attach(net, mp.LoRA(r=2, lora_alpha=alpha), str(alpha)).parameters():
            p.data[...] = alpha
    while True:
        for name in ("1.0", "2.0"):
            mp.save_adapter(net, name, folder)


def mixed_loads(folder):
    """Returns how many of LOADS loads mixed two saves."""
    writer = multiprocessing.get_context("spawn").Process(target=keep_saving, args=(folder,))
    writer.start()
    net, mixed, done = mp.Transformer(CONFIG, 0), 0, 0
    while done < LOADS:
        try:
            adapter = mp.load_adapter(net, folder, "x")
        except FileNotFoundError:  # before the first save
            continue
        done += 1
        values = {float(v) for p in adapter.parameters() for v in p.data.flat}
        mixed += values != {adapter.method.lora_alpha}
        mp.detach(net, "x")
    writer.kill()
    return mixed


def wrongly_read(kind, contents, judge):
    """Judges damaged files of a kind, and prints what was found; returns how many are wrong."""
    read, refused, wrong = 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        for content in contents:
            try:
                refusal = judge(Path(folder) / "x", content)
                read, refused = read + (not refusal), refused + bool(refusal)
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
    print(f"{kind} files: {refused:,} refused, {read:,} rightly read, {len(wrong)} wrong")
    print(*wrong[:20], sep="\n", end="\n" if wrong else "")
    return len(wrong)


def main():
    """Runs all campaigns and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    n, seed = options.mutants, options.seed
    warnings.simplefilter("ignore")  # that the JSON beside is of another save
    with tempfile.TemporaryDirectory() as folder:
        files = test_safetensors.mutants(np.random.default_rng(seed), n)
        wrong = wrongly_read("safetensors", files, test_safetensors.judge)
        files = gguf_files.mutants(np.random.default_rng(seed), n, Path(folder) / "whole")
        wrong += wrongly_read("GGUF", files, judge_gguf)
        mixed = mixed_loads(folder)
    print(f"{LOADS:,} loads beside a writer: {mixed} mixed")
    sys.exit(bool(wrong or mixed))


if __name__ == "__main__":
    main()
