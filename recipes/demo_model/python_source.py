"""Entries from Python source: a function's summary asks for its code, or for the rest of its documentation."""

from __future__ import annotations

import importlib.util
import re
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from recipes.demo_model.entries import STANDARD_LIBRARY, Entry
from tart_ray.demo.corpus import details_of, first_paragraph
from tart_ray.demo.functions import describe_functions

# Larger packages with many documented functions; beside what is installed.
DOWNLOADED = [
    "altair", "ansible-core", "arviz", "ase", "astroid", "astropy", "babel", "biopython", "bokeh", "celery",
    "cvxpy", "dask", "datasets", "diffusers", "distributed", "django", "docutils", "flax", "gensim",
    "geopandas", "ipython", "jax", "jedi", "keras", "librosa", "lightning", "luigi", "matplotlib", "mercurial",
    "metpy", "mne", "nilearn", "nltk", "obspy", "optax", "paramiko", "pennylane", "pillow", "pylint",
    "pymatgen", "pymc", "pyomo", "qiskit", "scikit-image", "scikit-learn", "scrapy", "seaborn", "spacy",
    "sphinx", "sqlalchemy", "statsmodels", "streamlit", "sunpy", "torchvision", "tornado", "twisted",
    "werkzeug", "xarray",
]  # fmt: skip
SKIPPED = re.compile(r"(^|/)(tests?|testing|idle_test|_?vendor|_?vendored|externals?|extern|thirdparty|third_party)/")
LARGEST_SOURCE = 1_000_000  # bytes; larger ones are generated
MIN_CODE_WORDS = 5


def read_module(package: str, module: str, source: str) -> Iterator[Entry]:
    """One entry per function whose docstring says what it does.

    ``code`` is the source without docstrings, ``documentation`` what follows the docstring's first paragraph.
    """
    seen: set[str] = set()
    for name, docstring, code in describe_functions(source):
        query = first_paragraph(docstring)
        if query is None or name in seen:
            continue
        seen.add(name)
        answers = {}
        if len(code.split()) >= MIN_CODE_WORDS:
            answers["code"] = code
        if details := details_of(docstring):
            answers["documentation"] = details
        if answers:
            yield Entry("python", package, f"{module}.{name}", module, query, answers)


def modules_of_folder(root: Path) -> Iterator[tuple[str, str]]:
    """Path below ``root`` and source of each module in it; those that cannot be decoded are passed over."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not SKIPPED.search(name) and path.stat().st_size <= LARGEST_SOURCE:
            yield from _decoded(name, path.read_bytes())


def modules_of_archive(path: Path) -> Iterator[tuple[str, str]]:
    """The same for a wheel or a source distribution, whose first folder is cut off."""
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for info in wheel.infolist():
                if _is_wanted(info.filename, info.file_size):
                    yield from _decoded(info.filename, wheel.read(info))
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.partition("/")[2]
                if member.isfile() and _is_wanted(name, member.size) and (file := archive.extractfile(member)):
                    yield from _decoded(name, file.read())


def python_packages(archives: Iterable[Path]) -> Iterator[tuple[str, Iterator[tuple[str, str]]]]:
    """Package and modules: the standard library, what is installed beside this package, the archives."""
    library = Path(sysconfig.get_paths()["stdlib"])
    yield STANDARD_LIBRARY, (row for row in modules_of_folder(library) if "site-packages/" not in row[0])
    for folder in sorted({Path(sysconfig.get_paths()[key]) for key in ("purelib", "platlib")}):
        for name in sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name.isidentifier()):
            yield name, ((f"{name}/{module}", source) for module, source in modules_of_folder(folder / name))
    for path in archives:
        yield re.split(r"-\d", path.name)[0].lower(), modules_of_archive(path)


def read_package(package: str, modules: Iterable[tuple[str, str]]) -> Iterator[Entry]:
    """The entries of a package's modules, given as path and source."""
    for path, source in modules:
        yield from read_module(package, module_name(path), source)


def module_name(path: str) -> str:
    """``json/decoder.py`` is ``json.decoder``, ``json/__init__.py`` is ``json``."""
    return path.removesuffix(".py").removesuffix("/__init__").removeprefix("src/").replace("/", ".")


def download_command(folder: Path) -> list[str]:
    """What fetches the archives: nothing is installed, nothing is run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    return [*command, "--dest", str(folder), *DOWNLOADED]


def _is_wanted(name: str, size: int) -> bool:
    return name.endswith(".py") and not SKIPPED.search(name) and size <= LARGEST_SOURCE


def _decoded(name: str, raw: bytes) -> Iterator[tuple[str, str]]:
    try:
        yield name, importlib.util.decode_source(raw)
    except (SyntaxError, UnicodeDecodeError):
        return  # not in the encoding that it names
