"""A process that is killed loses at most the steps since its last save, and no file.

Real child processes train, or save, in a loop and get SIGKILL at a random moment. The files
must be whole every time, and the run that goes on from them must end in the bits of one that
was never disturbed.
"""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minipeft as mp
from minipeft.engine.backend import np, to_numpy
from minipeft.io.arrays import header

KILLS, PATIENCE = 20, 100
STEPS = 100_000  # more than anybody waits for
CONFIG = mp.Config.gpt2(
    vocab=7, context=8, width=4, layers=1, heads=2, ffn=3, dropout=0.1, init_std=0.3
)
pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


def tuned(r=1):
    """A model with a LoRA in use."""
    net = mp.Transformer(CONFIG, rng=0)
    mp.attach(net, mp.LoRA(r, lora_dropout=0.2), "a", rng=r)
    return net


def run(path, until=None, **options):
    """Train a small model, saving after every step; returns it."""
    net, (ids, labels) = tuned(), np.random.default_rng(0).integers(0, 7, (2, 6, 5))
    how = dict(checkpoint=path, save_every=1, until=until) | options
    mp.fit(net, mp.Examples(ids, labels), STEPS, 4, 0.01, **how)
    return net


def digest(net):
    """A hash of all that a model holds."""
    found = hashlib.sha256()
    for name, p in net.named_parameters():
        found.update(name.encode() + to_numpy(p.data).tobytes())
    return found.hexdigest()


def steps_in(path):
    """How many steps the run in a checkpoint has taken."""
    return json.loads(header(path)[1]["run"])["steps"] if path.exists() else 0


def large(letter):
    """A base of 2 MB, of one number everywhere: a mixture of two would show."""
    net = mp.Transformer(CONFIG.with_(vocab=60_000, width=8), rng=0)
    for p in net.parameters():
        p.data[...] = float(ord(letter))
    return net


def train(path):
    """What a child does: train, from the checkpoint if there is one."""
    run(path)


def save(folder):
    """What a child does: save one model after the other in the same place."""
    nets = [large(letter) for letter in "AB"]
    while True:
        for net in nets:
            mp.save_model(net, folder)


def finish(folder):
    """What a child does: short runs by one worker and by two, whose results are kept."""
    for workers in (1, 2):
        net = run(None, until=8, workers=workers)
        mp.save_adapter(net, "a", folder / f"adapter-{workers}")
        mp.save_model(net, folder / f"model-{workers}")


def start(work, path):
    """Let a fresh process do such work; returns as soon as it begins."""
    command = [sys.executable, __file__, work.__name__, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def kill(process, seconds):
    """SIGKILL after so many seconds; it must have been at work until then."""
    time.sleep(seconds)
    process.kill()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL


def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(tmp_path):
    path, rng, done, kills = tmp_path / "run.safetensors", random.Random(0), 0, 0
    while kills < KILLS or (done == 0 and kills < PATIENCE):
        kills += 1
        kill(start(train, path), rng.uniform(0.02, 0.12))
        now = steps_in(path)  # raises if the file is not whole
        assert now >= done, "steps that were saved are gone"
        done = now
        for left in tmp_path.glob(".*.tmp"):
            assert left.name.startswith(".run.safetensors.")
    assert done > 0, "no child got as far as its first save"
    last = done + 5
    assert digest(run(path, until=last)) == digest(run(None, until=last))
    assert steps_in(path) == last


def test_a_save_that_is_killed_leaves_one_model_or_the_other(tmp_path):
    rng, interrupted = random.Random(1), 0
    mp.save_model(large("A"), tmp_path)
    whole = {digest(large(letter)) for letter in "AB"}
    kills = 0
    while kills < 6 or (not interrupted and kills < PATIENCE):
        kills += 1
        kill(start(save, tmp_path), rng.uniform(0.0, 0.06))
        interrupted += bool(list(tmp_path.glob(".*.tmp")))
        assert digest(mp.load_model(tmp_path)) in whole
        for left in tmp_path.glob(".*.tmp"):
            left.unlink()
    assert interrupted, "no child was killed while it wrote"


def test_two_fresh_processes_write_the_same_bytes(tmp_path):
    files = []
    for name in ("one", "two"):
        process = start(finish, tmp_path / name)
        process.communicate()
        assert process.returncode == 0
        found = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        files.append({str(p.relative_to(tmp_path / name)): p.read_bytes() for p in found})
    assert len(files[0]) == 8 and files[0] == files[1]


if __name__ == "__main__":
    print("begun", flush=True)
    {"train": train, "save": save, "finish": finish}[sys.argv[1]](Path(sys.argv[2]))
