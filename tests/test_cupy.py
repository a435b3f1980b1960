"""The CuPy backend, held to without a GPU.

By a scan: every name that the package takes from `xp`, and every method of an array, is one
that CuPy has. By a stand-in (tests/fakecupy): NumPy behind CuPy's names, which refuses what
CuPy would refuse or do silently otherwise, and counts how often the host waits. On a GPU, where
there is one (pytest -m gpu): the same numbers as NumPy's. The whole suite under the stand-in:

MINIPEFT_BACKEND=cupy PYTHONPATH=tests/fakecupy python -m pytest
"""

import ast
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

import minipeft as mp
from minipeft.engine.backend import BACKEND, np, to_numpy, xp
from minipeft.engine.tensor import no_grad

HERE = Path(__file__).parent
API = json.loads((HERE / "fakecupy" / "api.json").read_text(encoding="utf-8"))
NAMES = {"xp": {*API["ufuncs"], *API["functions"], *API["others"]} - {"random"}}
NAMES |= {f"xp.{part}": set(API[part]) for part in ("linalg", "fft")}
NAMES |= {f"xp.{name}": set(API["ufunc"]) for name in API["ufuncs"]}
LACKING = set(dir(numpy.ndarray)) - set(API["ndarray"])  # what only NumPy's arrays have
ON_THE_HOST = {"resize"}  # … and an array of the host is asked for

once = pytest.mark.skipif(BACKEND == "cupy", reason="starts processes with backends of its own")


def dotted(node):
    """'xp.add.at' for such an expression; '' for one that is no chain of names."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def complaints(source):
    """What CuPy lacks and a module asks for."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Attribute):
            continue
        owner = dotted(node.value)
        if owner in NAMES and node.attr not in NAMES[owner]:
            yield f"{owner}.{node.attr}"
        private = node.attr.startswith("_")
        if node.attr in LACKING - ON_THE_HOST and owner != "np" and not private:
            yield f"array.{node.attr}"


PACKAGE = sorted(Path(mp.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: path.stem)
def test_the_package_asks_for_nothing_that_cupy_lacks(path):
    assert not set(complaints(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "xp.errstate(all='ignore')",
        "xp.insert(a, 0, b)",
        "y = xp.block([[a]])",
        "xp.random.default_rng(0).normal()",
        "xp.linalg.multi_dot([a, b])",
        "xp.fft.fft3(a)",
        "xp.add.identity",
        "a.setflags(write=False)",
        "a.itemset(0, 1)" if hasattr(numpy.ndarray, "itemset") else "a.ctypes",
    ],
)
def test_the_scan_catches_what_cupy_lacks(source):
    assert list(complaints(source))


def test_the_scan_lets_through_what_cupy_has():
    source = "xp.add.at(a, i, b); xp.linalg.norm(a.reshape(-1), axis=0); xp.sqrt(a, out=b)"
    assert not list(complaints(source))


def test_the_list_is_that_of_the_real_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if cupy.__version__ != API["version"] or "fakecupy" in cupy.__file__:
        pytest.skip(f"the list is of CuPy {API['version']}; this is another")
    code = f"import sys; sys.path.insert(0, {str(HERE / 'tools')!r}); import cupy_api, json; "
    found = python(code + "print(json.dumps(cupy_api.api()))")
    assert json.loads(found) == API


def standin():
    """The stand-in under a name of its own."""
    spec = importlib.util.spec_from_file_location("standin", HERE / "fakecupy/cupy/__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CUPY = standin()
A = CUPY.asarray(numpy.arange(6.0).reshape(2, 3))
HOST = numpy.ones((2, 3))

REFUSED = {
    "implicit conversion": lambda: numpy.asarray(A),
    "a NumPy function": lambda: numpy.exp(A),
    "device + host": lambda: A + HOST,
    "host + device": lambda: HOST + A,
    "host's number": lambda: numpy.float64(2.0) * A,
    "+= of the host": lambda: A.__iadd__(HOST),
    "a host's array as argument": lambda: CUPY.where(A > 0, HOST, A),
    "a host's array as index": lambda: A[numpy.array([0, 1])],
    "a host's array assigned": lambda: A.__setitem__(slice(None), HOST),
    "a list in place of an array": lambda: CUPY.sqrt([1.0, 2.0]),
    "a name that CuPy lacks": lambda: CUPY.errstate,
    "locking an array": lambda: setattr(A.flags, "writeable", False),
    "a method that CuPy lacks": lambda: A.setflags(write=False),
    "an argument that CuPy lacks": lambda: A.max(axis=0, initial=0.0),
    "an option that CuPy lacks": lambda: CUPY.concatenate([A, A], axis=0, like=A),
    "random numbers of the device": lambda: CUPY.random,
    "arrays of objects": lambda: CUPY.asarray(["a"]),
    "an index out of bounds": lambda: A[CUPY.asarray([2])],
    "two values for one place": lambda: A.__setitem__(CUPY.asarray([0, 0]), A),
    "a negative number as unsigned": lambda: (A - 1.0).astype("uint8"),
    "adding up int64 at indices": lambda: CUPY.add.at(CUPY.zeros(2, int), CUPY.asarray([0]), 1),
    "a device's number as an index": lambda: range(CUPY.asarray(3)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_the_stand_in_refuses(what):
    with pytest.raises((TypeError, AttributeError, AssertionError)):
        REFUSED[what]()


def test_the_stand_in_computes_as_numpy_does():
    b = numpy.arange(6.0).reshape(2, 3)
    for ours, theirs in [
        (A @ A.T * 2.0 - 1.0, b @ b.T * 2.0 - 1.0),
        (2.0 / (A + 1.0), 2.0 / (b + 1.0)),
        (A[:, None, CUPY.asarray([2, 0])], b[:, None, [2, 0]]),
        (CUPY.pad(A, ((0, 1), (0, 0))), numpy.pad(b, ((0, 1), (0, 0)))),
        (A.sum(axis=1, keepdims=True), b.sum(axis=1, keepdims=True)),
        (CUPY.linalg.svd(A)[1], numpy.linalg.svd(b)[1]),
        (CUPY.fft.irfft(CUPY.fft.rfft(A), 3), numpy.fft.irfft(numpy.fft.rfft(b), 3)),
        (A[0, 1], b[0, 1]),
        (-abs(A), -abs(b)),
    ]:
        assert isinstance(ours, CUPY.ndarray) and ours.dtype == theirs.dtype
        assert numpy.array_equal(CUPY.asnumpy(ours), theirs)
    view = A.reshape(3, 2)[1:]
    assert view.base is A and CUPY.asnumpy(A).base is None


@pytest.mark.parametrize(
    "wait", [float, bool, str, CUPY.asnumpy, lambda a: a.item(), lambda a: a[a > 0]]
)
def test_the_stand_in_counts_what_waits(wait):
    a = CUPY.asarray(3.0)
    before = CUPY.syncs
    b = CUPY.exp(a * 2.0).sum() + a
    assert CUPY.syncs == before
    wait(b)
    assert CUPY.syncs == before + 1


def python(code, **environment):
    """What a fresh process prints."""
    process = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE)} | environment,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


SIZES = dict(vocab=9, context=24, width=8, layers=2, heads=4, kv_heads=2, ffn=6, init_std=0.3)
SHAPES = {"gpt2": mp.Config.gpt2(**SIZES), "llama": mp.Config.llama(**SIZES)}
SMALL = {"r": 2, "init_r": 2, "target_r": 1, "m": 4, "phm_dim": 2, "num_virtual_tokens": 3,
         "n_frequency": 9, "block_size": 2, "vector_length": 4}  # fmt: skip
OPTIONS = [{}, {"accumulate": 3}, {"workers": 2}, {"recompute": True}]


def measured(shape, name, **options):
    """What comes of a short run: logits before and after, losses, waits a step."""
    method = mp.METHODS[name]
    small = {key: SMALL[key] for key in SMALL if key in method.__dataclass_fields__}
    net, rng = mp.Transformer(SHAPES[shape].with_(dropout=0.1), 0), np.random.default_rng(0)
    mp.attach(net, method(**small), rng=1)
    ids, labels = rng.integers(0, 9, (2, 6, 5))

    def logits():
        with no_grad():
            return to_numpy(net(ids).data).ravel().tolist()

    def fitted(steps):
        before = getattr(xp, "syncs", 0)
        history = mp.fit(net, mp.Examples(ids, labels), steps, 4, 0.01, **options)
        return history.loss, getattr(xp, "syncs", 0) - before

    at_first = logits()
    mp.start_from_data(net, [(ids, labels)])  # which waits, but only once
    loss, waits = fitted(5)
    run = {"before": at_first, "after": logits(), "loss": loss}
    return run | {"waits": (waits - fitted(1)[1]) / 4}  # without those of a run as such


def everything():
    """`measured` for every method, on the shapes by turns, and every way to read a batch."""
    shapes = itertools.cycle(SHAPES)
    cases = [("gpt2" if name == "bitfit" else next(shapes), name, {}) for name in mp.METHODS]
    cases += [("llama", "lora", options) for options in OPTIONS]
    return {str(case): measured(*case[:2], **case[2]) for case in cases}


def elsewhere(**environment):
    """`everything`, computed in a fresh process with another backend."""
    code = "import json, test_cupy; print(json.dumps(test_cupy.everything()))"
    return json.loads(python(code, MINIPEFT_BACKEND="cupy", **environment))


@pytest.fixture(scope="module")
def both():
    """(on NumPy, on the stand-in)."""
    path = os.pathsep.join([str(HERE), str(HERE / "fakecupy")])
    return everything(), elsewhere(PYTHONPATH=path)


@once
def test_both_backends_start_equal_and_end_equal(both):
    ours, theirs = both
    for case in ours:
        assert ours[case]["before"] == theirs[case]["before"], case  # drawn on the host
        for what in ("after", "loss"):
            assert ours[case][what] == pytest.approx(theirs[case][what], rel=1e-5, abs=1e-6)


@once
def test_the_host_waits_at_most_twice_a_step(both):
    waits = {case: found["waits"] for case, found in both[1].items()}
    assert all(0 < n <= 2 for n in waits.values()), waits


@once
def test_an_unknown_backend_is_refused():
    with pytest.raises(AssertionError, match="MINIPEFT_BACKEND='torch' is not a backend"):
        python("import minipeft", MINIPEFT_BACKEND="torch")


@once
def test_a_part_of_the_suite_runs_on_the_stand_in():
    path = os.pathsep.join([str(HERE), str(HERE / "fakecupy")])
    chosen = ["tests/test_ops.py", "tests/test_optim.py", "tests/test_laws.py"]
    process = subprocess.run(
        [sys.executable, "-m", "pytest", "--profile", "ci", "-x", *chosen, "-k", PART],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": path, "MINIPEFT_BACKEND": "cupy"},
    )
    assert process.returncode == 0, process.stdout[-3000:]


PART = "test_ops or test_optim or [lora-llama"


@pytest.mark.gpu
@once
def test_a_gpu_computes_what_numpy_does():
    """Meant for the day that there is one: on the GPU and here, to float32's rounding."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    if not cupy.is_available():
        pytest.skip("CuPy finds no GPU")
    ours, theirs = everything(), elsewhere()
    for case in ours:
        assert ours[case]["before"] == pytest.approx(theirs[case]["before"], rel=1e-4, abs=1e-5)
        for what in ("after", "loss"):
            assert ours[case][what] == pytest.approx(theirs[case][what], rel=1e-3, abs=1e-4)
