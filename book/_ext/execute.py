"""Run the book's notebooks with papermill: `python book/_ext/execute.py [NAME ...]`.

With `-p NAME VALUE` it runs one chapter as plain papermill would, but refuses a parameter that the chapter does not have.

Each executed twin goes to _build/notebooks/. A twin is kept until the notebook, the package or the data that it may read
changes; it carries a key of all three, which the book's build and the tests check too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
TWINS = ROOT / "_build" / "notebooks"
CELL_SECONDS = 900


class NotebookError(RuntimeError):
    """A notebook that failed, stopped early, or was given a parameter that it does not have."""


def notebooks() -> list[Path]:
    """The chapters, in the order of _toc.yml."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [contents["root"], *(entry["file"] for entry in contents["chapters"])]
    pages = [ROOT / f"{file}.ipynb" for file in files]
    return [page for page in pages if page.is_file()]


def key(notebook: Path) -> str:
    """A digest of everything that the notebook's results depend on and that lies in the repository."""
    digest = hashlib.sha256()
    sources = [
        *sorted((ROOT / "gloro_lite").rglob("*.py")),
        *sorted((ROOT / "gloro_lite").rglob("*.js")),
        *sorted((ROOT / "gloro_lite").rglob("*.css")),
    ]
    data = [
        p
        for p in sorted((ROOT / "data").rglob("*"))
        if p.is_file()
        and "root" not in p.relative_to(ROOT / "data").parts
        and p.name != "checkpoint.pt"  # of a run that goes on meanwhile
    ]
    for path in (notebook, ROOT / "requirements.lock", *sources, *data):
        digest.update(
            f"{path.relative_to(ROOT)}\0".encode()
            + hashlib.sha256(path.read_bytes()).digest()
        )
    return digest.hexdigest()


def twin(notebook: Path) -> Path:
    """Where the executed twin of a notebook lies."""
    return TWINS / notebook.name


def is_current(notebook: Path) -> bool:
    """Whether the twin is there and was made from what the repository holds now."""
    path = twin(notebook)
    return path.is_file() and nbformat.read(path, 4).metadata.get("gloro", {}).get(
        "key"
    ) == key(notebook)


def canonical(nb: nbformat.NotebookNode) -> None:
    """Take out what differs from run to run without meaning: timings, addresses in reprs, random widget and cell ids."""
    text = nbformat.writes(nb)
    for number, name in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{32}\b", text))):
        text = text.replace(name, f"{number:032x}")
    text = re.sub(r"\bat 0x[0-9a-f]{6,16}\b", "at 0x0", text)
    clean = nbformat.reads(text, 4)
    for number, cell in enumerate(clean.cells):
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell["id"] = f"injected-{number}"
            cell.metadata["tags"] = [*cell.metadata["tags"], "hide-input"]
    clean.metadata.pop("papermill", None)
    nb.cells, nb.metadata = clean.cells, clean.metadata


def execute(notebook: Path, output: Path, parameters: dict | None = None) -> None:
    """Run a notebook and write its twin to `output`, which appears only when all of it has run.

    Raises NotebookError for an unknown parameter, a cell that fails, and a notebook that stops before its last cell, even
    with exit code 0.
    """
    import papermill

    parameters = parameters or {}
    known = papermill.inspect_notebook(str(notebook))
    if not known:
        raise NotebookError(f"{notebook.name} has no cell tagged 'parameters'")
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise NotebookError(
            f"{notebook.name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    part = output.with_suffix(".part.ipynb")
    try:
        papermill.execute_notebook(
            str(notebook),
            str(part),
            parameters=parameters,
            cwd=str(ROOT),
            kernel_name="python3",
            progress_bar=False,
            # A chapter that is given parameters may have been asked to train for hours.
            execution_timeout=None if parameters else CELL_SECONDS,
        )
    except Exception as error:
        raise NotebookError(f"{notebook.name}: {error}") from error
    nb = nbformat.read(part, 4)
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        status = cell.metadata.get("papermill", {}).get("status")
        if cell.execution_count is None or status != "completed":
            raise NotebookError(
                f"{notebook.name} stopped early: code cell {number} did not run to its end ({status})"
            )
    canonical(nb)
    nb.metadata["gloro"] = {"key": key(notebook)}
    nbformat.write(nb, part)
    os.replace(part, output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names",
        nargs="*",
        help="chapters to run, bottom_class say; all that have changed by default",
    )
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="run one chapter with another parameter, into the current folder",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="how many to run at once",
    )
    arguments = parser.parse_args()
    wanted = [
        path
        for path in notebooks()
        if not arguments.names or path.stem in arguments.names
    ]
    missing = set(arguments.names) - {path.stem for path in wanted}
    if missing:
        parser.error(
            f"no such chapter: {', '.join(sorted(missing))}; there are {', '.join(p.stem for p in notebooks())}"
        )
    if arguments.parameters:
        if len(arguments.names) != 1:
            parser.error("-p needs the name of one chapter")
        output = Path.cwd() / f"{wanted[0].stem}.out.ipynb"
        values = {name: yaml.safe_load(value) for name, value in arguments.parameters}
        try:
            execute(wanted[0], output, values)
        except NotebookError as error:
            print(error, file=sys.stderr)
            return 1
        print(output)
        return 0
    due = [path for path in wanted if arguments.names or not is_current(path)]
    print(
        f"{len(wanted) - len(due)} of {len(wanted)} notebooks are current, {len(due)} to run"
    )
    # Several kernels share the cores: more threads than cores would make all of them wait.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failures = []

    def run(path: Path) -> None:
        start = time.perf_counter()
        try:
            execute(path, twin(path))
            print(f"  {path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        except NotebookError as error:
            failures.append(path.name)
            print(error, file=sys.stderr, flush=True)

    with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        list(pool.map(run, due))
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
