"""Run the book's notebooks with papermill: `python book/_tools/execute.py [NAME ...]`.

With `-p NAME VALUE` it runs one chapter as plain papermill would, but refuses a parameter that the chapter does not have.

Each executed twin goes to _build/notebooks/. It carries the state of everything that its run read in the repository: the
notebook, the modules that it imported, data files, folders that it listed, files that it found missing. While all of that is
as it was, the twin is kept; the book's build and the tests look at the same. It also says when it ran, for how long and with
which versions, for the foot of its page.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import yaml

from gloro_lite.datasets.benchmarks import data_root
from gloro_lite.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
TWINS = ROOT / "_build" / "notebooks"
CELL_SECONDS = 900
LONGEST = ("training_on_digits", "voronoi", "other_methods")
"""Chapters that are started first: when one of them is the last, a core has nothing to do meanwhile."""


class NotebookError(RuntimeError):
    """A notebook that failed, stopped early, or was given a parameter that it does not have."""


def notebooks() -> list[Path]:
    """The chapters, in the order of _toc.yml."""
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [contents["root"], *(entry["file"] for entry in contents["chapters"])]
    pages = [ROOT / f"{file}.ipynb" for file in files]
    return [page for page in pages if page.is_file()]


def twin(notebook: Path) -> Path:
    """Where the executed twin of a notebook lies."""
    return TWINS / notebook.name


def is_current(notebook: Path) -> bool:
    """Whether the twin is there and all that its run read is as it was."""
    try:
        inputs = nbformat.read(twin(notebook), 4).metadata["gloro"]["inputs"]
        files = Files()
        return all(
            state == _state(name, notebook, files) for name, state in inputs.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no twin, half of one, or one of an older runner


_READ = ("gloro_lite", "data", "book")
_LISTED = ("data", "book")  # where a file that appears is news
_PASSING = re.compile(
    r"(^|/)(\..*|__pycache__|_build|checkpoint\.pt|.*\.part|.*\.egg-info)(/|$)"
    # IPython asks of a short text that it shows whether it is a file's name.
    r"|[<>|\"*?`:\n$]"
)


class Files:
    """The states of the repository's files, each looked at once: a digest, "folder" or "missing"."""

    def __init__(self):
        self._states: dict[str, str] = {}

    @classmethod
    def all(cls) -> Files:
        """With everything looked at that a notebook is likely to read."""
        files = cls()
        for folder in _READ:
            for path in (ROOT / folder, *(ROOT / folder).rglob("*")):
                name = path.relative_to(ROOT).as_posix()
                if _is_input(name):
                    files.state(name)
                    if path.is_dir():
                        files.state(name + "/")
        return files

    def state(self, name: str) -> str:
        """The state of a path in the repository; with a slash at its end, of the names in that folder."""
        if name not in self._states:
            self._states[name] = self._look(name)
        return self._states[name]

    @staticmethod
    def _look(name: str) -> str:
        path = ROOT / name
        if name.endswith("/"):
            names = os.listdir(path) if path.is_dir() else []
            names = sorted(n for n in names if _is_input(name + n))
            return _digest("\0".join(names).encode())
        try:
            if path.is_file():
                return _digest(path.read_bytes())
            return "folder" if path.is_dir() else "missing"
        except OSError:
            return "missing"  # or it cannot be read, or no file can have that name


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_input(name: str) -> bool:
    return not _PASSING.search(name) and not f"{name}/".startswith(
        ("data/root/", "book/_ext/", "book/_tools/")
    )


def _state(name: str, notebook: Path, files: Files) -> str:
    """The state of an input, by its name: "notebook", a path in the repository, or "there: " and one that was only asked for.

    Of "images: MNIST/raw" and the like, whether they are there: the package knows the digests of what they must be.
    """
    if name == "notebook":
        return _digest(notebook.read_bytes())
    for kind, root in (("there: ", ROOT), ("images: ", data_root())):
        if name.startswith(kind):
            there = (root / name.removeprefix(kind)).exists()
            return "there" if there else "missing"
    return files.state(name)


def _names(seen: list[tuple[str, str]]) -> list[str]:
    """The inputs that a kernel has reported, by their names."""
    names = {"notebook": None, "requirements.lock": None}
    images = data_root().absolute()
    for kind, path in ((kind, Path(path)) for kind, path in seen):
        if path.is_relative_to(images):
            names[f"images: {path.relative_to(images).as_posix()}"] = None
        elif path.is_relative_to(ROOT) and path != ROOT:
            name = path.relative_to(ROOT).as_posix()
            if not _is_input(name):
                continue
            if kind == "ask" and not name.startswith("data/"):
                names["there: " + name] = None
            elif kind != "list":
                # Data also where it was only asked for: libraries in other languages may read it then, unheard.
                names[name] = None
            elif name.split("/")[0] in _LISTED:
                names[name + "/"] = None
    return list(names)


def lighten(nb: nbformat.NotebookNode) -> None:
    """Store each figure in as few bytes as show the same."""
    outputs = [output for cell in nb.cells for output in cell.get("outputs", [])]
    pictures = [
        output.data for output in outputs if "image/png" in output.get("data", {})
    ]
    if pictures:
        from gloro_lite.plotting import fewer_bytes

        for data in pictures:
            png = fewer_bytes(base64.b64decode(data["image/png"]))
            data["image/png"] = base64.b64encode(png).decode()


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Outputs in which what was printed in one go is one text. A kernel sends it in pieces, cut where its clock says."""
    whole: list[nbformat.NotebookNode] = []
    for output in outputs:
        last = whole[-1] if whole else None
        if (
            output.output_type == "stream"
            and last is not None
            and last.output_type == "stream"
            and last.name == output.name
        ):
            last.text += output.text
        else:
            whole.append(output)
    return whole


def canonical(nb: nbformat.NotebookNode) -> None:
    """Take out what differs from run to run without meaning: timings, addresses in reprs, random widget and cell ids, and
    where a printed text was cut."""
    text = nbformat.writes(nb)
    for number, name in enumerate(dict.fromkeys(re.findall(r"\b[0-9a-f]{32}\b", text))):
        text = text.replace(name, f"{number:032x}")
    text = re.sub(r"\bat 0x[0-9a-f]{6,16}\b", "at 0x0", text)
    clean = nbformat.reads(text, 4)
    for number, cell in enumerate(clean.cells):
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.get("execution_count"):
            # The first of all was the runner's own.
            cell.execution_count -= 1
            for output in cell.outputs:
                if output.get("execution_count"):
                    output.execution_count -= 1
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
    files, source = Files.all(), notebook.read_bytes()
    began, start = datetime.now(UTC), time.perf_counter()
    try:
        nb = papermill.execute_notebook(
            _recorded(nbformat.reads(source.decode(), 4)),
            None,
            parameters=parameters,
            cwd=str(ROOT),
            kernel_name="python3",
            progress_bar=False,
            # Kernels warn of their sockets at each start, and report the interrupt that ends them as an error.
            extra_arguments=["--log-level=CRITICAL"],
            # A chapter that is given parameters may have been asked to train for hours.
            execution_timeout=None if parameters else CELL_SECONDS,
        )
        _check_finished(nb, notebook)
        report = json.loads(nb.cells.pop().outputs[0].text)
        nb.cells.pop(0)
        canonical(nb)
        lighten(nb)
        if not parameters:
            states = {
                name: _state(name, notebook, files) for name in _names(report["seen"])
            }
            states["notebook"] = _digest(source)
            now = Files()
            for name, state in states.items():
                if state != _state(name, notebook, now):
                    raise NotebookError(
                        f"{notebook.name}: {name} was changed while it ran; run it again"
                    )
            run = {
                "date": began.date().isoformat(),
                "seconds": round(time.perf_counter() - start),
                "versions": report["versions"],
            }
            nb.metadata["gloro"] = {"inputs": states, "run": run}
        write_atomically(output, (nbformat.writes(nb) + "\n").encode())
    except NotebookError:
        raise
    except Exception as error:
        raise NotebookError(f"{notebook.name}: {error}") from error


def _recorded(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook between two cells of ours: one that begins to note what is read, and one that prints it."""
    recording = Path(__file__).with_name("recording.py")
    before = f"""\
def _():
    import importlib.util, sys
    spec = importlib.util.spec_from_file_location("gloro_recording", {str(recording)!r})
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.start({str(ROOT)!r}, {str(data_root())!r})
_()
del _"""
    after = 'print(__import__("sys").modules["gloro_recording"].report())'
    nb.cells = [
        nbformat.v4.new_code_cell(before),
        *nb.cells,
        nbformat.v4.new_code_cell(after),
    ]
    return nb


def _check_finished(nb: nbformat.NotebookNode, notebook: Path) -> None:
    for number, cell in enumerate(nb.cells):
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        status = cell.metadata.get("papermill", {}).get("status")
        if cell.execution_count is None or status != "completed":
            raise NotebookError(
                f"{notebook.name} stopped early: code cell {number - 1} did not run to its end ({status})"
            )


def parameter(text: str) -> bool | int | float | str | None:
    """The value that `papermill -p` makes of a word."""
    if text in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def run_with(notebook: Path, parameters: dict) -> int:
    """Run one chapter with other parameters, into the current folder; returns the exit code."""
    output = Path.cwd() / f"{notebook.stem}.out.ipynb"
    try:
        execute(notebook, output, parameters)
    except NotebookError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(output)
    return 0


def run_all(due: list[Path], jobs: int) -> int:
    """Run chapters, so many at once; returns the exit code."""
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

    due = sorted(due, key=lambda path: (*LONGEST, path.stem).index(path.stem))
    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        list(pool.map(run, due))
    except KeyboardInterrupt:
        print("interrupted; what has run is kept", file=sys.stderr, flush=True)
        # Not after the chapters that still run: their kernels end when this process has.
        os._exit(130)
    if failures:
        print(f"failed: {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


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
    names = {Path(name).stem for name in arguments.names}  # files and paths too
    wanted = [path for path in notebooks() if not names or path.stem in names]
    missing = names - {path.stem for path in wanted}
    if missing:
        parser.error(
            f"no such chapter: {', '.join(sorted(missing))}; there are {', '.join(p.stem for p in notebooks())}"
        )
    if arguments.parameters:
        if len(names) != 1:
            parser.error("-p needs the name of one chapter")
        values = {name: parameter(value) for name, value in arguments.parameters}
        return run_with(wanted[0], values)
    due = [path for path in wanted if arguments.names or not is_current(path)]
    print(
        f"{len(wanted) - len(due)} of {len(wanted)} notebooks are current, {len(due)} to run"
    )
    return run_all(due, arguments.jobs)


if __name__ == "__main__":
    raise SystemExit(main())
