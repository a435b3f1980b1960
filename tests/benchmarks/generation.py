"""Seconds a token when writing with a cache: minipeft against HF's generate.

    python tests/benchmarks/generation.py --out figures/generation.json         about a minute

Greedy, on one small Llama of the same weights; both must write the same tokens. The rivals are
processes that take turns, as in `step.py`.
"""

import argparse
import contextlib
import sys
from pathlib import Path
from statistics import median

from tqdm import tqdm

import minipeft as mp
from cases import serve, threads
from minipeft.engine.backend import np
from minipeft.io.files import write_json

PROMPT, NEW = 32, 96  # tokens
SHAPE = dict(vocab=512, context=PROMPT + NEW, width=128, layers=4, heads=4, init_std=0.1)
GOAL = 0.9


def prompts(rows):
    """Random token ids, as lists."""
    return np.random.default_rng(2).integers(0, SHAPE["vocab"], (rows, PROMPT)).tolist()


def ours(rows):
    """A process that writes with minipeft."""
    net, asked = mp.Transformer(mp.Config.llama(**SHAPE), rng=0), prompts(rows)
    serve(lambda: mp.generate(net, asked, NEW), same=True)


def theirs(rows):
    """A process that writes with HF's model of the same weights."""
    from hf import hf_model, torch

    torch.set_num_threads(threads())
    net = hf_model(mp.Transformer(mp.Config.llama(**SHAPE), rng=0))
    asked = torch.tensor(prompts(rows))
    how = dict(max_new_tokens=NEW, do_sample=False, use_cache=True, pad_token_id=0)
    how |= {"attention_mask": torch.ones_like(asked)}

    def write():
        with torch.inference_mode():
            return net.generate(asked, **how)[:, PROMPT:].tolist()

    serve(write, same=True)


def measure(rows, count, rounds):
    """A row of results: milliseconds a token of both, and their ratio."""
    from rival import Rival

    with contextlib.ExitStack() as until:
        pair = [
            until.enter_context(Rival("generation.py", who, rows, threads=count))
            for who in ("ours", "theirs")
        ]
        mine, other = (rival.steps(1, counted=False)["losses"] for rival in pair)
        if mine != other:
            raise SystemExit(f"batch {rows}: minipeft and HF write different tokens")
        for _ in range(rounds):
            for rival in pair:
                rival.steps(1)
    times = [1e3 * median(rival.seconds) / NEW for rival in pair]
    used = [1e3 * median(rival.processor) / NEW for rival in pair]
    return {
        "batch": rows,
        "threads": count,
        "minipeft_ms": round(times[0], 4),
        "hf_ms": round(times[1], 4),
        "ratio": round(times[0] / times[1], 3),
        "processor_ratio": round(used[0] / used[1], 3),
        "tokens_a_second": round(1e3 * rows / times[0]),
        "hf_tokens_a_second": round(1e3 * rows / times[1]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("figures/generation.json"))
    options = parser.parse_args()
    cells = [(rows, count) for count in options.threads or (1, 2) for rows in (1, 8)]
    results = []
    for cell in tqdm(cells, disable=None, unit="cell"):
        results.append(measure(*cell, options.rounds))
        write_json(options.out, {"goal": GOAL, "prompt": PROMPT, "new": NEW, "rows": results})
    print("batch  threads  minipeft ms/token  HF ms/token  ratio  goal  tokens/s  HF tokens/s")
    for r in results:
        print(
            f"{r['batch']:5} {r['threads']:8} {r['minipeft_ms']:18.3f} {r['hf_ms']:12.3f} "
            f"{r['ratio']:6.2f} {GOAL:5.2f} {r['tokens_a_second']:9} "
            f"{r['hf_tokens_a_second']:12}"
        )


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] in ("ours", "theirs"):
        {"ours": ours, "theirs": theirs}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
