#!/usr/bin/env python3
"""Compiles the CUDA kernels with NVRTC, which needs neither a GPU nor a driver.

    python3 check_nvrtc.py [--arch sm_80 ...]

Finds libnvrtc in $UNBRAID_NVRTC (a file), else in the wheels `nvidia-cuda-nvrtc*` of the Python that runs this, and compiles
the kernels as the program does: one text, the files of src/kernels in the order of src/source.rs. Without --arch: every
architecture that this NVRTC knows from sm_75 on. Prints one line for each library and architecture; exits with 1 on any
error, 2 if no library is found.
"""

import argparse
import ctypes
import glob
import os
import re
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))
OLDEST = 75  # Turing, the first with a useful bf16 path in cuBLASLt's fall-backs


def source():
    """The text that the program hands to NVRTC."""
    text = open(os.path.join(HERE, "src", "source.rs"), encoding="utf-8").read()
    names = re.findall(r'include_str!\("kernels/([a-z0-9_]+\.cu)"\)', text)
    if not names:
        sys.exit("src/source.rs names no kernel file")
    files = [open(os.path.join(HERE, "src", "kernels", name), encoding="utf-8").read() for name in names]
    return "\n".join(files)


def libraries():
    """Every NVRTC at hand."""
    if os.environ.get("UNBRAID_NVRTC"):
        return [os.environ["UNBRAID_NVRTC"]]
    site = sysconfig.get_paths()["purelib"]
    found = glob.glob(os.path.join(site, "nvidia", "*", "lib", "libnvrtc.so.*"))
    return sorted(path for path in found if ".alt." not in path)


class Nvrtc:
    def __init__(self, path):
        self.path = path
        self.lib = ctypes.CDLL(path)
        self.lib.nvrtcGetErrorString.restype = ctypes.c_char_p

    def check(self, code, what):
        if code != 0:
            raise RuntimeError(f"{what}: {self.lib.nvrtcGetErrorString(code).decode()}")

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.check(self.lib.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        return f"{major.value}.{minor.value}"

    def architectures(self):
        count = ctypes.c_int()
        self.check(self.lib.nvrtcGetNumSupportedArchs(ctypes.byref(count)), "nvrtcGetNumSupportedArchs")
        archs = (ctypes.c_int * count.value)()
        self.check(self.lib.nvrtcGetSupportedArchs(archs), "nvrtcGetSupportedArchs")
        return list(archs)

    def compile(self, text, arch):
        """Machine code for `arch` (sm_NN); its size in bytes and the compiler's log."""
        program = ctypes.c_void_p()
        created = self.lib.nvrtcCreateProgram(
            ctypes.byref(program), text.encode(), b"unbraid.cu", 0, None, None
        )
        self.check(created, "nvrtcCreateProgram")
        options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17"]
        code = self.lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
        size = ctypes.c_size_t()
        self.lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self.lib.nvrtcGetProgramLog(program, log)
        log = log.value.decode(errors="replace").strip()
        if code == 0:
            self.check(self.lib.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
        self.lib.nvrtcDestroyProgram(ctypes.byref(program))
        if code != 0:
            raise RuntimeError(log or self.lib.nvrtcGetErrorString(code).decode())
        return size.value, log


def main():
    parser = argparse.ArgumentParser(description="Compiles the CUDA kernels with NVRTC; no GPU is needed.")
    parser.add_argument("--arch", action="append", help="an architecture such as sm_90; may be repeated")
    args = parser.parse_args()
    found = libraries()
    if not found:
        print("no libnvrtc: pip install nvidia-cuda-nvrtc, or set UNBRAID_NVRTC", file=sys.stderr)
        return 2
    text, failed = source(), 0
    for path in found:
        nvrtc = Nvrtc(path)
        archs = args.arch or [f"sm_{n}" for n in nvrtc.architectures() if n >= OLDEST]
        for arch in archs:
            try:
                size, log = nvrtc.compile(text, arch)
                print(f"nvrtc {nvrtc.version()} {arch}: ok, {size} bytes")
                if log:
                    print(log)
            except RuntimeError as error:
                failed += 1
                print(f"nvrtc {nvrtc.version()} {arch}: FAILED\n{error}")
    if failed:
        print(f"{failed} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
