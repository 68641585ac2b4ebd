#!/usr/bin/env python3
"""Builds the sdist and the wheels of all platforms on a Linux machine, and checks each of them.

    python release/build_wheels.py --dist=dist                      # all
    python release/build_wheels.py --dist=dist linux_x86_64 pure    # the sdist and these

The compiler is Clang of the package ziglang, which contains the C libraries of all targets. LLVM's C++ library is
linked into the wheels, so they do not need the C++ library of the system. The wheels for Linux need glibc 2.17 of 2012,
which is the oldest that zig knows. jaxlib itself needs glibc 2.27. The wheel for macOS needs macOS 11.0, which is the
first version for arm64 and the oldest for jaxlib.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib

from wheel_contents import TARGETS, ContentError, check_sdist, check_wheel

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Packages that the script needs besides the build requirements in pyproject.toml. The build requirements fix the
# version of XLA's headers.
TOOLS = ["build", "ziglang>=0.15", "auditwheel>=6.4", "lief>=0.16"]
# -s strips the symbol table. native.py needs only the exported names, which stay.
LINK = {"linux": "-shared -s", "macos": "-shared -s -Wl,-dead_strip"}


def run(*command, **keywords):
    """Runs a command and returns its output. If the command fails, ends the script with its last lines."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **keywords)
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).splitlines()[-40:])
        sys.exit(f"{' '.join(map(str, command))} failed:\n{last}")
    return done.stdout


def make_environment(folder):
    """Makes a virtual environment with the tools, unless `folder` already is one. Returns its interpreter."""
    python = folder / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", folder)
        requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
        run(python, "-m", "pip", "install", "-q", *requirements, *TOOLS)
    return python


def settings(target, python):
    """Returns the environment variables that make setuptools build for `target`."""
    if target.zig is None:
        return {"RECU_JAX_KERNELS": "none"}
    compiler = f"{python} -m ziglang c++ -target {target.zig}"
    return {
        "RECU_JAX_KERNELS": "required",
        "CC": compiler,
        "CXX": compiler,
        "LDSHARED": f"{compiler} {LINK[target.system]}",
        "LDCXXSHARED": f"{compiler} {LINK[target.system]}",
        # CFLAGS come last on the command line, so they win over the flags that Python was built with.
        "CFLAGS": "-g0",
        "LDFLAGS": "",
        # With dashes and not with underscores for macOS, because setuptools splits the value at its dashes.
        "_PYTHON_HOST_PLATFORM": "macosx-11.0-arm64" if target.system == "macos" else target.platform,
        "SETUPTOOLS_EXT_SUFFIX": ".so",
    }


def build_sdist(python, dist):
    """Builds the sdist, checks it and returns its path."""
    before = set(dist.glob("*.tar.gz"))
    run(python, "-m", "build", "-q", "--no-isolation", "--sdist", "--outdir", dist, ROOT)
    (sdist,) = set(dist.glob("*.tar.gz")) - before
    print(f"{sdist.name}: {check_sdist(sdist)}")
    return sdist


def build_wheel(target, sdist, python, dist):
    """Builds the wheel of a target from the sdist, checks it and returns its path."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (source,) = pathlib.Path(folder).iterdir()
        wheels = pathlib.Path(folder) / "wheels"
        run(
            *(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, source),
            env={**os.environ, **settings(target, python)},
        )
        (built,) = wheels.glob("*.whl")
        wheel = built.replace(dist / built.name)
    print(f"{wheel.name}: {check_wheel(wheel, target)}", flush=True)
    if target.system == "linux":
        print(f"  auditwheel: {audit(wheel, target, python)}", flush=True)
    return wheel


def audit(wheel, target, python):
    """Returns what auditwheel found. Ends the script if auditwheel names another platform than the wheel's name."""
    printed = " ".join(run(python, "-m", "auditwheel", "show", wheel).split())
    wanted = f'consistent with the following platform tag: "{target.platform}"'
    if wanted not in printed:
        sys.exit(f"{wheel.name} must be {wanted}; auditwheel says: {printed}")
    return wanted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; without any: all")
    parser.add_argument("--dist", type=pathlib.Path, required=True, help="folder for the files; it must be empty")
    parser.add_argument("--environment", type=pathlib.Path, help="folder of an environment to make, or to use again")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; targets: {', '.join(TARGETS)}")
    if arguments.dist.exists() and any(arguments.dist.iterdir()):
        parser.error(f"--dist={arguments.dist} has files; give an empty folder")
    arguments.dist.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        python = make_environment((arguments.environment or pathlib.Path(folder) / "environment").resolve())
        # The checks of wheel_contents.py need lief, which the environment has.
        if pathlib.Path(sys.prefix) != python.parent.parent:
            sys.exit(subprocess.call([python, __file__, *sys.argv[1:], f"--environment={python.parent.parent}"]))
        sdist = build_sdist(python, arguments.dist.resolve())
        for name in arguments.targets or TARGETS:
            build_wheel(TARGETS[name], sdist, python, arguments.dist.resolve())


if __name__ == "__main__":
    try:
        main()
    except ContentError as error:
        sys.exit(str(error))
