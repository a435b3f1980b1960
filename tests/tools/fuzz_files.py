"""Read thousands of damaged safetensors files; the safetensors library is the judge.

    python tests/tools/fuzz_files.py [--mutants 6000] [--seed 1]

Each must be refused in one sentence that names the file, or hold what the library reads, and
take no more memory than twice the file. Then one process saves two adapters over one another
while another loads them: each load must be of one save. Exit 1 if anything else happens.
"""

import argparse
import multiprocessing
import sys
import tempfile
import warnings
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import numpy as np  # noqa: E402

import minipeft as mp  # noqa: E402
from test_safetensors import judge, mutants  # noqa: E402

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


def main():
    """Runs both campaigns and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mutants", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=1)
    options, wrong, refused = parser.parse_args(), [], 0
    warnings.simplefilter("ignore")  # that the JSON beside is of another save
    with tempfile.TemporaryDirectory() as folder:
        for content in mutants(np.random.default_rng(options.seed), options.mutants):
            try:
                refused += judge(Path(folder) / "x", content)
            except Exception as error:
                wrong.append(f"{type(error).__name__}: {error}")
        print(f"{options.mutants:,} mutants: {refused:,} refused, {len(wrong)} wrong")
        print("\n".join(wrong[:20]))
        mixed = mixed_loads(folder)
    print(f"{LOADS:,} loads beside a writer: {mixed} mixed")
    sys.exit(bool(wrong or mixed))


if __name__ == "__main__":
    main()
