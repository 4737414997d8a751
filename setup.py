"""Builds the extension modules of cbp.

Everything that is only data (name, version, dependencies, what goes into the wheel)
stands in pyproject.toml; this file holds what must be decided when building: compiler
flags, Cython directives and the stable ABI. CBP_DEBUG=1 builds with bounds checks.
"""

import os
import shutil
import sysconfig
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("CBP_DEBUG", "0") not in ("", "0")

# One wheel serves every Python from 3.11 on; free-threaded builds have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")

# What is built for, which is not this machine when tools/make_wheels.py says so.
PLATFORM = sysconfig.get_platform()
WINDOWS, MACOS = PLATFORM.startswith("win"), PLATFORM.startswith("macosx")

# The only place for directives; no .pyx file overrides them for a whole module.
# freethreading_compatible: compiled modules have no state that changes after import, a
# Trainer serves one call at a time, and `make test-freethreaded` runs the tests in four
# threads at once. Without it the import would turn the GIL on, for all of the process.
DIRECTIVES = {
    "language_level": 3,
    "cdivision": True,
    "wraparound": False,
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "freethreading_compatible": True,
    # No class here can be pickled, and says so without code of its own. Functions have
    # no signatures that Python could read: modules are private, and stubs have them.
    "auto_pickle": False,
    "binding": False,
}

# Results must be the same bits from every compiler. So no flag here may change what an
# operation returns or choose a CPU, and a*b+c is fused only where the code says fma.
# -fno-math-errno gives up errno alone, to let sqrt be one instruction.
UNIX_FLAGS = [
    "-std=gnu11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    # Noise from code that Cython generates:
    "-Wno-unused-function",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
]
UNIX_FLAGS += ["-O1", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0"]
UNIX_LINK_FLAGS = []
FLAGS_OF = {}  # more flags of single files
if not DEBUG:
    # What only debuggers and profilers read is a third of a file: symbols (Apple's
    # linker knows no -s), and tables to unwind the stack (Windows' ABI wants them).
    # zig would keep the frame pointer, too (Apple's ABI wants it).
    UNIX_LINK_FLAGS += ["-Wl,-x"] if MACOS else ["-Wl,-s", "-Wl,--gc-sections"]
    UNIX_FLAGS += ["-ffunction-sections", "-fdata-sections"]
    if not WINDOWS:
        UNIX_FLAGS += ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]
        UNIX_FLAGS += [] if MACOS else ["-fomit-frame-pointer"]

# What Cython generates calls Python and the kernels, once a batch or less. -Os takes
# off a fifth to a third of it and no speed: fits of 1000 rows, in batches of 1 to 200,
# take as long to 4 % (gcc, clang).
if not DEBUG:
    for module in "_cyutility", *(path.stem for path in Path("cbp").glob("*.pyx")):
        FLAGS_OF[f"{module}.c"] = ["-Os", "-fno-inline-functions"]

# Where a faster tier exists the scalar one is the reference and the last resort, which
# waits for fma() of the C library: small is enough.
if not DEBUG and PLATFORM.endswith(("x86_64", "amd64", "aarch64", "arm64")):
    FLAGS_OF["scalar.c"] = ["-Os"]

# Windows is not tested. The kernels need clang-cl there; see build_extensions below.
CLANG_CL_FLAGS = ["/W3", "/clang:-ffp-contract=off", "/clang:-fno-math-errno"]
# Without this option clang-cl compiles for the CPU that clang-cl was built for.
WINDOWS_CPU = {"win32": "i686", "win-arm64": "aarch64"}.get(PLATFORM, "x86_64")
CLANG_CL_FLAGS += [f"--target={WINDOWS_CPU}-pc-windows-msvc"]
CLANG_CL_FLAGS += ["/Od", "/Zi", "/UNDEBUG"] if DEBUG else ["/clang:-O3"]


# Nor docstrings, which are read in the source. All three make a wheel 4 % smaller.
Options.docstrings = DEBUG


class BuildExt(build_ext):
    """build_ext that picks the flags once the compiler is known."""

    def build_extensions(self):
        if self.compiler.compiler_type == "msvc":
            if shutil.which("clang-cl") is None:
                raise SystemExit("cbp needs clang-cl on Windows (LLVM's or MSVC's own)")
            self.compiler.initialize()
            self.compiler.cc = shutil.which("clang-cl")
            flags, link_flags, libraries = CLANG_CL_FLAGS, [], []
        else:
            flags, link_flags, libraries = UNIX_FLAGS, UNIX_LINK_FLAGS, ["m"]
            self.add_flags_of_files()
        for extension in self.extensions:
            extension.extra_compile_args = flags
            extension.extra_link_args = link_flags
            extension.libraries = libraries
        super().build_extensions()

    def add_flags_of_files(self):
        """Lets the compiler add FLAGS_OF a file to those of all files."""
        compile_file = self.compiler._compile

        def compile_with(obj, source, ext, cc_args, flags, pp_opts):
            flags = [*flags, *FLAGS_OF.get(Path(source).name, [])]
            compile_file(obj, source, ext, cc_args, flags, pp_opts)

        self.compiler._compile = compile_with

    def get_ext_filename(self, name):
        """As for the platform that is built for, if that is Windows from elsewhere."""
        if WINDOWS and STABLE_ABI:
            return name.replace(".", os.sep) + ".pyd"
        return super().get_ext_filename(name)


def build_mode_file():
    """Path of a file that is rewritten when the kind of build changes.

    The extensions depend on it, so a debug build after a normal one (or the reverse)
    rebuilds everything, although no source is newer.
    """
    path = Path("build", "mode")
    mode = "debug" if DEBUG else "release"
    if not path.exists() or path.read_text() != mode:
        path.parent.mkdir(exist_ok=True)
        path.write_text(mode)
    return path.as_posix()


def extension(name, c_sources):
    """The extension `name`, from its .pyx file and C files, rebuilt for any header."""
    headers = [path.as_posix() for path in sorted(Path("src_c").glob("*.h"))]
    # Strings as they are: a wheel is compressed anyway, and what was is not any more.
    macros = [("CYTHON_COMPRESS_STRINGS", "0")]
    if STABLE_ABI:
        macros.append(("Py_LIMITED_API", "0x030B0000"))
    if DEBUG:
        macros.append(("CBP_DEBUG", "1"))
    return Extension(
        name,
        sources=[name.replace(".", "/") + ".pyx", *c_sources],
        include_dirs=["src_c"],
        depends=[*headers, build_mode_file()],
        define_macros=macros,
        py_limited_api=STABLE_ABI,
    )


# Below the estimators and above the kernels, from the lowest floor to the highest.
ROOMS = ["_network", "_weights", "_data", "_prediction", "_recorder", "_threads"]
ROOMS += ["_batch", "_progress", "_held_out", "_training"]

# Each tier's file compiles to nothing on CPUs that it is not for.
C_SOURCES = [path.as_posix() for path in sorted(Path("src_c").glob("*.c"))]

# Cython 3.3.0 and 3.3.1 give an item up twice if a list comprehension gets no memory
# for it, and so free what others still use: the caller of this gives it up then, too.
FAULTY_C = """int result = PyList_Append(list, x);
    Py_DECREF(x);
"""
MENDED_C = """int result = PyList_Append(list, x);
    if (likely(!result)) Py_DECREF(x);
"""


def mended(extensions):
    """The extensions, their generated C without that fault of Cython's."""
    for path in {Path(source) for each in extensions for source in each.sources}:
        if "build" in path.parts:
            text = path.read_text()
            if FAULTY_C in text:
                path.write_text(text.replace(FAULTY_C, MENDED_C))
    return extensions


# What Cython would put into each of the modules (memoryviews, functions, coroutines),
# once. It is generated whole and has no source. Cython enters it into sys.modules by
# its last name, too; it is the one that scikit-learn and others use.
shared = extension("cbp._cyutility", [])
shared.sources = []

setup(
    ext_modules=mended(
        cythonize(
            [
                extension("cbp._kernels", C_SOURCES),
                *[extension(f"cbp.{name}", []) for name in ROOMS],
                shared,
            ],
            shared_utility_qualified_name=shared.name,
            # Debug and release differ in their generated C, so each has its own folder.
            build_dir="build/c-debug" if DEBUG else "build/c",
            compiler_directives=DIRECTIVES,
        )
    ),
    cmdclass={"build_ext": BuildExt},
    options={
        "build_ext": {"parallel": os.cpu_count()},
        "bdist_wheel": {"py_limited_api": "cp311"} if STABLE_ABI else {},
    },
)
