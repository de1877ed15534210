"""Builds the one compiled module, weavepy._fastpath.

WEAVEPY_SANITIZE=1 builds it with AddressSanitizer and UBSan (make test-asan).
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

HEADERS = {
    "openssl/evp.h": "libssl-dev",
    "linux/virtio_net.h": "linux-libc-dev",
    "stdlib.h": "libc6-dev",
}


def missing_packages() -> list[str]:
    """Names the Debian packages whose files the build needs and doesn't find."""
    roots = [Path("/usr/include"), *Path("/usr/include").glob("*-linux-gnu"), Path("/usr/local/include")]
    missing = [pkg for header, pkg in HEADERS.items() if not any((r / header).exists() for r in roots)]
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        missing.append("python3-dev")
    if not (shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")):
        missing.append("gcc")
    return missing


BUILDING = {"build_ext", "bdist_wheel", "develop", "editable_wheel", "install"} & set(sys.argv)
if BUILDING and (missing := missing_packages()):
    sys.exit(f"weavepy: to build the data path, first run: apt-get install {' '.join(missing)}")

try:
    from Cython.Build import cythonize
except ImportError:
    sys.exit("weavepy: to build the data path, first run: pip install cython")

native = sorted(str(p) for p in Path("weavepy/native").glob("*.c"))
headers = sorted(str(p) for p in Path("weavepy/native").glob("*.h"))
flags = [
    "-std=gnu11",
    "-D_GNU_SOURCE",
    "-O3",
    "-g1",
    "-fno-strict-aliasing",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
flags += ["-Wno-unused-parameter", "-fstack-protector-strong"]
link = []
if os.environ.get("WEAVEPY_SANITIZE"):
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    flags = [f for f in flags if f != "-O3"] + ["-O1", *sanitize]
    link = sanitize

setup(
    ext_modules=cythonize(
        [
            Extension(
                "weavepy._fastpath",
                ["weavepy/_fastpath.pyx", *native],
                depends=headers,
                include_dirs=["weavepy/native"],
                libraries=["crypto", "dl", "pthread"],
                extra_compile_args=flags,
                extra_link_args=link,
            )
        ],
        compiler_directives={"language_level": 3, "embedsignature": True},
    )
)
