"""Checks what is in a wheel or in the sdist: files, tag, size, licences, and the symbols and libraries of the kernels.

    python release/wheel_contents.py dist/*

Each check returns a line about the file, or raises `ContentError`. The check of a wheel with kernels needs the package
lief.
"""

import ast
import dataclasses
import email
import pathlib
import re
import sys
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MOST_BYTES = 3_000_000
# Symbols that the library may show besides the kernels: the operators new and delete, which the C++ standard lets a
# program replace, and symbols that the linker of macOS adds.
ALWAYS_SHOWN = re.compile(r"_Z(n[wa]|d[la])\w+|__dso_handle|_mh_dylib_header")


class ContentError(Exception):
    """Raised when a file of the release is not as it must be. The message says what is wrong, and where."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A platform for which there is a wheel.

    Attributes:
      platform: the wheel's platform tag.
      system: "linux", "macos" or "any".
      machine: how lief names the processor of a compiled library.
      zig: zig's name of the target, with the oldest glibc or macOS version; None for a wheel without kernels.
      libraries: system libraries that the compiled library may need.
    """

    platform: str
    system: str
    machine: str = ""
    zig: str | None = None
    libraries: tuple[str, ...] = ()


_GLIBC = ("libc.so.6", "libm.so.6", "libpthread.so.0", "libdl.so.2", "librt.so.1")
TARGETS = {
    "linux_x86_64": Target(
        "manylinux_2_17_x86_64", "linux", "X86_64", "x86_64-linux-gnu.2.17", (*_GLIBC, "ld-linux-x86-64.so.2")
    ),
    "linux_aarch64": Target(
        "manylinux_2_17_aarch64", "linux", "AARCH64", "aarch64-linux-gnu.2.17", (*_GLIBC, "ld-linux-aarch64.so.1")
    ),
    "macos_arm64": Target("macosx_11_0_arm64", "macos", "ARM64", "aarch64-macos.11.0", ("/usr/lib/libSystem.B.dylib",)),
    "pure": Target("any", "any"),
}


def kernel_names():
    """Returns the names of the functions that recu_jax/ops/native.py asks the compiled library for."""
    for node in ast.parse((ROOT / "recu_jax" / "ops" / "native.py").read_text()).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "TARGETS":
            return {*ast.literal_eval(node.value), "recu_isas"}
    raise ContentError("recu_jax/ops/native.py has no TARGETS")


def version():
    """Returns the version of this checkout."""
    return re.search(r'__version__ = "(.+)"', (ROOT / "recu_jax" / "__init__.py").read_text()).group(1)


def source_files():
    """Returns the files that every wheel must have, as paths in the wheel."""
    kinds = (".py", ".pyi", ".typed", ".html", ".css", ".js")
    package = {p for p in (ROOT / "recu_jax").rglob("*") if p.suffix in kinds or p.name == "py.typed"}
    package |= {p for p in (ROOT / "recu_jax" / "networks").iterdir() if p.is_file()}
    headers = set((ROOT / "recu_jax" / "deploy" / "c").glob("*.h"))
    configs = {f"recu_jax/configs/{p.name}" for p in (ROOT / "configs").glob("*.py")}
    return {str(p.relative_to(ROOT)) for p in package | headers} | configs


def check_library(data, target):
    """Checks the bytes of a compiled library. Returns a line about it."""
    import lief

    library = lief.parse(list(data))
    if library is None:
        raise ContentError("the compiled library is neither ELF nor Mach-O")
    if target.system == "macos":
        library = library.at(0) if hasattr(library, "at") else library
        machine, needs = library.header.cpu_type.name, [lib.name for lib in library.libraries]
        shown = {symbol.name.removeprefix("_") for symbol in library.exported_symbols}
        # On macOS, a library lists itself too.
        needs = [name for name in needs if "_kernels" not in name]
        oldest = "macOS {}.{}".format(*library.build_version.minos[:2])
        if oldest != "macOS 11.0":
            raise ContentError(f"the compiled library asks for {oldest}, and the tag says 11.0")
        if not library.has_code_signature:
            raise ContentError("the compiled library has no signature; macOS on arm64 kills a process that loads it")
    else:
        machine, needs = library.header.machine_type.name, library.libraries
        shown = {symbol.name for symbol in library.exported_symbols}
        asked = {part.name for r in library.symbols_version_requirement for part in r.get_auxiliary_symbols()}
        versions = [tuple(map(int, n.split("_")[1].split("."))) for n in asked if n.startswith("GLIBC_")]
        oldest = "glibc {}.{}".format(*max(versions)[:2])
        if max(versions) > (2, 17):
            raise ContentError(f"the compiled library needs {oldest}, and the tag says 2.17")
    if machine != target.machine:
        raise ContentError(f"the compiled library is for {machine}, and the tag says {target.machine}")
    if foreign := set(needs) - set(target.libraries):
        raise ContentError(f"the compiled library needs {', '.join(sorted(foreign))}, which not every system has")
    if missing := kernel_names() - shown:
        raise ContentError(f"the compiled library does not show {', '.join(sorted(missing))}")
    if other := {name for name in shown - kernel_names() - {"recu_sources"} if not ALWAYS_SHOWN.fullmatch(name)}:
        raise ContentError(f"the compiled library shows {len(other)} other symbols, such as {min(other)}")
    return f"{machine}, {oldest} or newer, {len(kernel_names())} symbols"


def check_wheel(path, target):
    """Checks a wheel against its target. Returns a line about the wheel."""
    tag = f"py3-none-{target.platform}"
    if path.name != f"recu_jax-{version()}-{tag}.whl":
        raise ContentError(f"{path.name} must be recu_jax-{version()}-{tag}.whl")
    if path.stat().st_size >= MOST_BYTES:
        raise ContentError(f"{path.name} has {path.stat().st_size} bytes, and must have less than {MOST_BYTES}")
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        info = f"recu_jax-{version()}.dist-info"
        described = email.message_from_bytes(wheel.read(f"{info}/WHEEL"))
        libraries = sorted(name for name in names if name.endswith((".so", ".dylib")))
        contents = [wheel.read(name) for name in libraries]
    if described.get_all("Tag") != [tag]:
        raise ContentError(f"{path.name}: its file WHEEL has the tag {described.get_all('Tag')}")
    if missing := source_files() - names:
        raise ContentError(f"{path.name} lacks {', '.join(sorted(missing))}")
    extra = {n for n in names - source_files() - set(libraries) if not n.startswith(f"{info}/")}
    if extra:
        raise ContentError(f"{path.name} has {', '.join(sorted(extra))}, which it does not need")
    for licence in ("LICENSE", "NOTICE"):
        if f"{info}/licenses/{licence}" not in names:
            raise ContentError(f"{path.name} has no {licence}")
    if libraries != ([] if target.zig is None else ["recu_jax/ops/_kernels.so"]):
        raise ContentError(f"{path.name} has the compiled libraries {libraries}")
    line = f"{path.stat().st_size / 1e6:.2f} MB, {len(names)} files, {tag}"
    return "; ".join([line, *(check_library(data, target) for data in contents)])


def check_sdist(path):
    """Checks that the sdist has all that a build needs. Returns a line about the sdist."""
    with tarfile.open(path) as archive:
        names = {"/".join(name.split("/")[1:]) for name in archive.getnames()}
    needed = {str(p.relative_to(ROOT)) for p in (ROOT / "recu_jax").rglob("*") if p.suffix in (".cc", ".h")}
    needed |= {name.replace("recu_jax/configs/", "configs/") for name in source_files()}
    needed |= {"setup.py", "pyproject.toml", "CITATION.cff", "README.md", "LICENSE", "NOTICE", "PKG-INFO"}
    if missing := needed - names:
        raise ContentError(f"{path.name} lacks {', '.join(sorted(missing))}")
    return f"{path.stat().st_size / 1e6:.2f} MB, {len(names)} entries"


def target_of(path):
    """Returns the target of a wheel, which the wheel's name tells."""
    for target in TARGETS.values():
        if path.stem.endswith(f"-{target.platform}"):
            return target
    raise ContentError(f"{path.name} is for no platform of {', '.join(TARGETS)}")


def main():
    try:
        for path in map(pathlib.Path, sys.argv[1:]):
            found = check_sdist(path) if path.name.endswith(".tar.gz") else check_wheel(path, target_of(path))
            print(f"{path.name}: {found}")
    except ContentError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
