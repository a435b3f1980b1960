"""minipeft's step, as `fit` takes it.  python ours.py SIZE METHOD

With as many workers as threads: each process reads a part of the batch by one BLAS thread.
"""

import sys

from cases import SIZES, Stepper, model, serve, threads
from minipeft.accumulate import reading
from minipeft.tape import tape_arrays


def main(size, method):
    net, _ = model(size, method)
    *_, T, B = SIZES[size]
    step = Stepper(net, B, T, threads())
    loss = net.loss(*step.data.both)
    tape = sum(a.nbytes for a in tape_arrays(loss, net.parameters()))
    del loss
    with reading(net, step.run.settings) as each:
        serve(lambda: step(each), same=True, tape=tape)


if __name__ == "__main__":
    main(*sys.argv[1:])
