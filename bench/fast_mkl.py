"""PyTorch's MKL at full speed on processors that are not Intel's.

MKL asks `mkl_serv_intel_cpu_true` which vendor made the processor and takes slow matrix kernels when
the answer is no. A shared library that answers yes, loaded first, gives PyTorch its best: a peer should be measured at its best too.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = "int mkl_serv_intel_cpu_true(void) { return 1; }\n"


def library(folder):
    """Compiles the library into `folder` with the system's C compiler and returns its path."""
    path = Path(folder) / "libfastmkl.so"
    source = path.with_suffix(".c")
    source.write_text(SOURCE)
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", path, source], check=True)
    return path


def restart_with_it():
    """Runs this program again with the library loaded, once; call before importing torch."""
    if "libfastmkl" in os.environ.get("LD_PRELOAD", ""):
        return
    path = library(tempfile.mkdtemp(prefix="fastmkl-"))
    before = [os.environ["LD_PRELOAD"]] if os.environ.get("LD_PRELOAD") else []
    os.environ["LD_PRELOAD"] = ":".join([str(path), *before])
    os.execv(sys.executable, [sys.executable, *sys.argv])
