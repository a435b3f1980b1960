"""minipeft's step, as `fit` takes it.  python ours.py SIZE METHOD [WORKERS]

Of the two ways to use all threads the faster, unless told: as many workers, each process
reading a part of the batch with one thread, or one that multiplies with all of them.
"""

import json
import subprocess
import sys
from statistics import median

from cases import ON_GPU, SIZES, Stepper, model, peak_memory, serve, threads
from minipeft.engine.backend import xp
from minipeft.lab.saved_tensors import tape_arrays


def fastest(size, method):
    """How many workers take a step in the shortest time; each is tried by another process."""

    def seconds(workers):
        command = [sys.executable, __file__, size, method, str(workers)]
        tried = subprocess.run(
            command, input="5", stdout=subprocess.PIPE, text=True, check=True
        )
        return median(json.loads(tried.stdout.splitlines()[-1])["seconds"])

    return min({1, threads()}, key=seconds)


def main(size, method, workers=None):
    workers = int(workers or fastest(size, method))
    net, _ = model(size, method)
    *_, T, B = (SIZES | ON_GPU)[size]
    step = Stepper(net, B, T, workers)
    loss = net.loss(*step.data.both)
    tape = sum(a.nbytes for a in tape_arrays(loss, net.parameters()))
    del loss
    with step.run.workers() as each:
        serve(lambda: step(each), peak(), same=True, tape=tape, workers=workers)


def peak():
    """What measures the memory where this process computes, for `serve`."""
    if not hasattr(xp, "get_default_memory_pool"):
        return peak_memory
    pool = xp.get_default_memory_pool()

    def on_gpu(reset=False):
        if reset:
            pool.free_all_blocks()
        return pool.total_bytes()  # it gives nothing back, so this is the peak

    return on_gpu


if __name__ == "__main__":
    main(*sys.argv[1:])
