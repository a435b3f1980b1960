"""Compiles tools/failing_memory.c, an allocator that refuses memory to one array of many."""

import functools
import importlib.util
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import numpy

SOURCE = Path(__file__).parent / "tools" / "failing_memory.c"


@functools.cache
def failing_memory():
    """The module, installed; None where there is no C compiler or no header of Python."""
    folder = tempfile.mkdtemp()
    library = Path(folder) / f"failing_memory{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = [f"-I{sysconfig.get_path('include')}", f"-I{numpy.get_include()}"]
    compiler = ["cc", "-shared", "-fPIC", "-O1", *include, str(SOURCE), "-o", str(library)]
    try:
        subprocess.run(compiler, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    spec = importlib.util.spec_from_file_location("failing_memory", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.install()
    return module
