"""Change the certification modules in one place at a time and see whether a test notices: `make mutants`.

Tests are collected once. For each mutant a copy of the process is made (fork), which exchanges the code of the functions that the
change touches, or imports the package anew where it touches what runs at import. It runs tests that reach the changed lines,
quick ones and those most likely to fail first, until one fails. A mutant dies of a failing test, of a crash, or of running ten
times as long as a test does. Those that no test can tell from the original are listed in `equivalent.toml` with the reason.

What is known is kept in `_build/mutants.json`: a run that is interrupted goes on, and after a change of code or tests the test
that killed a mutant before comes first. `data/mutation.json` gets the score. It needs `os.fork`, so Linux or macOS.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib.abc
import importlib.util
import inspect
import json
import math
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import date
from itertools import accumulate
from pathlib import Path
from types import CodeType, FunctionType

import hypothesis
import pytest
import torch
from _pytest.runner import runtestprotocol

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    *(f"{name}.py" for name in ("certificate", "bottom", "net", "layers")),
    *(
        f"lipschitz/{name}.py"
        for name in ("rounding", "norms", "banded", "nodes", "affine", "nonlinear", "checks", "walk", "program", "power")
    ),
)
"""What certificates rest on, under gloro_lite/."""
TESTS = ("net", "program", "rounding", "lipschitz", "bounds", "refused", "museum", "falsify", "ordinary_use", "slack")
"""The tests that are run, tests/test_<name>.py: those of these modules, a minute and a half in all."""
TOO_SLOW = (
    "too large to prove",
    "is_within_five_percent",
    "is_no_hindrance",
    "minmax_sorts",
    "theorem",
    "without_cdist",
    "while_another_thread",
    "function_transforms",
    "rises_to_the_norm",
    "composed_bound",
    "at_its_exact_boundary",
    "at_its_boundary",
    "nearly_equal_rows",
    "nothing_breaks_within",
    "nearly_one_certify",
)
"""Parts of names of tests that take long for what they find that others do not."""
FIRST = ("comparison", "check", "rounding", "exchange")
"""The kinds of change that are run first."""
WARM = 60
"""How many of the quickest tests are run before copies are made."""
EXAMPLES = 6
"""How many examples hypothesis draws for a test here."""
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
KNOWN = ROOT / "_build" / "mutants.json"
OUTPUT = ROOT / "data" / "mutation.json"


def source(module: str) -> Path:
    """Where a module of `MODULES` lies."""
    return ROOT / "gloro_lite" / module


def listed() -> dict[str, str]:
    """The mutants that no test can notice, by `module | key`, with the reason."""
    groups = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("group", [])
    return {key.strip(): group["reason"] for group in groups for key in group["mutants"].strip().splitlines()}


def _digest(paths: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


class Known:
    """What earlier runs have found, in `_build/mutants.json`.

    A mutant that a test has killed is dead as long as the modules and the file of that test are what they were. One that survived
    has to live through the tests again when any of them changed.

    Attributes:
        killers, survivors: what killed each mutant, and which lived, whether that still holds or not.
        reached: by test: its file's digest, its seconds, and the lines it reaches by module.
        results: by `module | key`: kind, status ("killed" or "survived"), what killed it, and the digest of what that depends on.
    """

    def __init__(self, tests: list[Path]):
        record = json.loads(KNOWN.read_text(encoding="utf-8")) if KNOWN.is_file() else {"results": {}}
        sources = (*map(source, MODULES), Path(__file__).with_name("mutants.py"), ROOT / "tests" / "conftest.py")
        self.modules = _digest(sources)
        self.files = {f"tests/{path.name}": _digest([path]) for path in tests}
        self.files[""] = _digest(tests)  # of all
        same = record.get("modules") == self.modules
        self.reached = record["reached"] if same else {}
        self.killers = {key: result["by"] for key, result in record["results"].items()}
        self.survivors = {key for key, result in record["results"].items() if result["status"] == "survived"}
        self.results = {key: r for key, r in record["results"].items() if same and r["digest"] == self._of(r["by"])}

    def _of(self, killer: str) -> str:
        return self.files.get(killer.partition("::")[0], self.files[""])

    def measured(self, test: str) -> bool:
        """Whether it is known what a test reaches."""
        return self.reached.get(test, {}).get("file") == self._of(test)

    def reach(self, test: str, seconds: float, lines: dict[str, list[int]]) -> None:
        """Note what a test reaches."""
        self.reached[test] = {"file": self._of(test), "seconds": seconds, "lines": lines}

    def add(self, key: str, kind: str, status: str, by: str) -> None:
        """Note what became of a mutant."""
        self.results[key] = {"kind": kind, "status": status, "by": by, "digest": self._of(by)}

    def keep(self) -> None:
        """Write it all."""
        _write(KNOWN, {"modules": self.modules, "reached": self.reached, "results": self.results})


class _Source:
    """A module to mutate: its mutants, and the code of its functions as it is."""

    def __init__(self, module: str):
        self.module = module
        text = source(module).read_text(encoding="utf-8")
        self._tree = ast.parse(text)
        self.mutants = mutants(text, self._tree)
        self.codes = _codes(self.compiled())

    def compiled(self) -> CodeType:
        return compile(self._tree, str(source(self.module)), "exec", dont_inherit=True)


class Runner:
    """Runs mutants in the place of the tests that pytest has collected.

    Args:
        modules: of `MODULES`.
        known: gets the results.
        wanted: tells of a `module | key` whether to run it.
        seconds: for how long the tests of one mutant may take together.
        minutes: after which no more mutants are begun.
    """

    def __init__(self, modules: tuple[str, ...], known: Known, wanted: Callable[[str], bool], seconds: float, minutes: float):
        self.modules, self.known, self.wanted, self.budget = modules, known, wanted, seconds
        self.end = time.monotonic() + 60 * minutes

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = [item for item in items if not any(part in item.nodeid for part in TOO_SLOW)]
        for item in items:
            if getattr(item.obj, "is_hypothesis_test", False):
                function = getattr(item.obj, "__func__", item.obj)
                drawn = function._hypothesis_internal_use_settings
                function._hypothesis_internal_use_settings = hypothesis.settings(drawn, max_examples=EXAMPLES)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session) -> bool:
        self.items = session.items
        if session.testsfailed:
            raise pytest.UsageError("the tests cannot be collected")
        self._measure()
        self.live = _functions({str(source(module)) for module in self.modules})
        gc.collect()
        gc.freeze()
        self.killers: dict[str, Counter] = defaultdict(Counter)
        sources = {module: _Source(module) for module in self.modules}
        todo = [(module, mutant) for module in self.modules for mutant in sources[module].mutants]
        todo = [(module, mutant) for module, mutant in todo if self.wanted(f"{module} | {mutant.key}")]
        # What is left when the time is up is a sample, drawn with a seed, of the kinds of change that come last.
        random.Random(0).shuffle(todo)
        todo.sort(key=lambda one: one[1].kind not in FIRST)
        for count, (module, mutant) in enumerate(todo, start=1):
            if time.monotonic() > self.end:
                break
            key = f"{module} | {mutant.key}"
            killer = self._run(sources[module], mutant, key)
            self.known.add(key, mutant.kind, "survived" if killer is None else "killed", killer or "")
            if killer is None:
                print(f"survived: {key}", flush=True)
            if count % 20 == 0:
                self.known.keep()
                print(f"{count} of {len(todo)}", flush=True)
        self.known.keep()
        return True

    def _measure(self) -> None:
        """Run new tests once and note their time and the lines that they reach. Raises UsageError if several fail.

        That, and a few tests that are known, warm this process up: its copies need not import and build what tests share.
        """
        new = [item for item in self.items if not self.known.measured(item.nodeid)]
        known = [item for item in self.items if self.known.measured(item.nodeid)]
        known.sort(key=lambda item: self.known.reached[item.nodeid]["seconds"])
        found = _reached([*new, *known[:WARM]])
        failed = [item for item, one in zip([*new, *known], found, strict=False) if one is None]
        for item in failed:
            print(f"left out, as it fails without a mutation: {item.nodeid}", flush=True)
        if len(failed) > len(self.items) // 50:
            raise pytest.UsageError("without any mutation these tests fail")
        self.items = [item for item in self.items if item not in failed]
        for item, one in zip(new, found, strict=False):
            if one is not None:
                self.known.reach(item.nodeid, *one)
        self.known.keep()
        known = [self.known.reached[item.nodeid] for item in self.items]
        self.seconds = [test["seconds"] for test in known]
        self.tests = [
            (test["seconds"] * sum(map(len, test["lines"].values())), item.nodeid, inspect.getsource(item.function))
            for item, test in zip(self.items, known, strict=True)
        ]
        self.reaches: dict[tuple[str, int], set[int]] = defaultdict(set)
        for place, test in enumerate(known):
            for module, lines in test["lines"].items():
                for line in lines:
                    self.reaches[module, line].add(place)
        print(f"\n{len(self.items)} tests, {sum(self.seconds):.0f} s", flush=True)

    def _run(self, of: _Source, mutant: Mutant, key: str) -> str | None:
        """The test that kills a mutant, or what else does; None where it survives."""
        with mutant.applied():
            code = of.compiled()
        changed = {path: new for path, new in _codes(code).items() if of.codes.get(path) != new}
        swaps = [(self.live[of.codes[path]], changed[path]) for path in _swappable(changed, of.codes, self.live)]
        reach: set[int] = set()
        if swaps:
            reach = set().union(*(self.reaches[of.module, line] for line in range(mutant.lines[0], mutant.lines[1] + 1)))
        if not reach:  # what runs at import, or never
            swaps, reach = [], set(range(len(self.items)))
        # First what killed it before, then what names the function, is quick and reaches little else, or has killed its like.
        before = self.known.killers.get(key)
        killers = self.killers[f"{of.module} | {mutant.key.partition(' | ')[0]}"]
        names = [item.nodeid for item in self.items]
        function = mutant.key.partition(" | ")[0].rpartition(".")[2] or "-"
        weights = [w / (1 + 20 * killers[name]) / (20 if function in text else 1) for w, name, text in self.tests]
        order = sorted(reach, key=lambda n: (names[n] != before, weights[n]))
        spent = accumulate(self.seconds[n] for n in order)
        budget = self.budget if swaps else math.inf  # nothing tells which tests are near
        order = [n for n, seconds in zip(order, spent, strict=True) if n == order[0] or seconds < budget]
        work = (lambda: self._swapped(swaps, order)) if swaps else (lambda: self._anew(of.module, code, order))
        killer = _in_a_copy(work)
        if killer is not None:
            killers[killer] += 1
        return killer

    def _swapped(self, swaps: list, order: list[int]) -> str | None:
        for functions, code in swaps:
            for function in functions:
                function.__code__ = code
        for place in order:
            _allow(2 + 10 * self.seconds[place])
            if any(report.failed for report in runtestprotocol(self.items[place], log=False, nextitem=None)):
                return self.items[place].nodeid
        return None

    def _anew(self, module: str, code: CodeType, order: list[int]) -> str | None:
        _allow(10 + 10 * sum(self.seconds))
        for name in list(sys.modules):
            if name.partition(".")[0] in ("gloro_lite", "conftest") or name.startswith(("test_", "exact_")):
                del sys.modules[name]
        sys.meta_path.insert(0, _Mutated("gloro_lite." + module.removesuffix(".py").replace("/", "."), code))
        first = _First([self.items[place].nodeid for place in order])
        files = sorted({str(self.items[place].path) for place in order})
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files], plugins=[first])
        return None if status == 0 else first.failed or "an error on import"


def _swappable(changed: dict, original: dict, live: dict) -> list[tuple]:
    """The paths of the outermost functions that changed and are loaded; none where something outside of functions changed."""
    paths = [path for path in changed if original.get(path) in live]
    outermost = [path for path in paths if not any(path[:n] in paths for n in range(len(path)))]
    covered = all(any(path[: len(top)] == top or top[: len(path)] == path for top in outermost) for path in changed)
    return outermost if covered else []


class _First:
    """Runs tests in a given order and notes the first that fails."""

    def __init__(self, order: list[str]):
        self.order, self.failed = {name: place for place, name in enumerate(order)}, ""

    def pytest_collection_modifyitems(self, items: list) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.order), key=lambda item: self.order[item.nodeid])

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed and not self.failed:
            self.failed = report.nodeid


class _Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a mutant's code."""

    def __init__(self, name: str, code: CodeType):
        self.name, self.code = name, code

    def find_spec(self, fullname, path, target=None):
        if fullname == self.name:
            return importlib.util.spec_from_loader(fullname, self, origin=self.code.co_filename)
        return None

    def exec_module(self, module) -> None:
        module.__file__ = self.code.co_filename
        exec(self.code, module.__dict__)


def _codes(code: CodeType, path: tuple = ()) -> dict[tuple, CodeType]:
    """The code of a module and of all functions and classes in it, by where each stands."""
    found = {path: code}
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    for place, constant in enumerate(inner):
        found |= _codes(constant, (*path, (place, constant.co_name)))
    return found


def _functions(files: set[str]) -> dict[CodeType, list[FunctionType]]:
    """The functions that are loaded from some files, by their code."""
    found = defaultdict(list)
    for thing in gc.get_objects():
        if isinstance(thing, FunctionType) and thing.__code__.co_filename in files:
            found[thing.__code__].append(thing)
    return dict(found)


def _reached(items: list) -> list:
    """For each test, its seconds and the lines that it reaches, by module; None where it fails."""
    names = {str(source(module)): module for module in MODULES}
    lines: dict[str, set[int]] = {}
    known: dict[CodeType, str | None] = {}

    def calls(frame, event, argument):
        code = frame.f_code
        if code not in known:
            known[code] = names.get(code.co_filename)
        return each if known[code] else None

    def each(frame, event, argument):
        lines.setdefault(known[frame.f_code], set()).add(frame.f_lineno)
        return each

    found = []
    for item in items:
        lines = {}
        started = time.process_time()
        threading.settrace(calls)
        sys.settrace(calls)
        reports = runtestprotocol(item, log=False, nextitem=None)
        sys.settrace(None)
        threading.settrace(None)
        if any(report.failed for report in reports):
            found.append(None)
            continue
        found.append((time.process_time() - started, {module: sorted(each) for module, each in lines.items()}))
    return found


def _allow(seconds: float) -> None:
    """End this process after so many seconds of its processor's time, or when it waits for very long."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.alarm(int(20 * seconds) + 60)


def _in_a_copy(work: Callable[[], object]) -> object:
    """What `work` returns in a copy of this process that says nothing; else what ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with contextlib.suppress(BaseException):
            os.close(reading)
            silence = os.open(os.devnull, os.O_RDWR)
            for stream in range(3):
                os.dup2(silence, stream)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            try:
                answer = work()
            except BaseException as error:
                answer = type(error).__name__
            with os.fdopen(writing, "w") as pipe:
                json.dump(answer, pipe)
            status = 0
        os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if status == 0:
        return json.loads(answer)
    timed_out = os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM)
    return "its time was up" if timed_out else "a crash"


def run(
    modules: tuple[str, ...],
    tests: list[Path],
    known: Known,
    wanted: Callable[[str], bool],
    *,
    seconds: float = math.inf,
    minutes: float = math.inf,
) -> None:
    """Run mutants: see `Runner`. Raises RuntimeError where the tests fail without a mutation."""
    os.chdir(ROOT)
    arguments = ["-q", "-p", "no:cacheprovider", "-W", "ignore", *map(str, tests)]
    if pytest.main(arguments, plugins=[Runner(modules, known, wanted, seconds, minutes)]) != 0:
        raise RuntimeError("the tests do not pass without a mutation")


def score(results: dict[str, dict], equivalent: dict[str, str], population: dict[str, str]) -> dict:
    """Counts of a run by module and by kind, the equivalents by reason, and the survivors that are not listed as such.

    Args:
        population: the kinds of all mutants by `module | key`, whether they have been run or not.
    """

    def counts(keys: list[str]) -> dict:
        ran = [key for key in keys if key in results]
        alive = [key for key in ran if results[key]["status"] == "survived"]
        same = sum(key in equivalent for key in alive)
        return {
            "mutants": len(keys),
            "run": len(ran),
            "killed": len(ran) - len(alive),
            "equivalent": same,
            "survived": len(alive) - same,
        }

    alive = [key for key in population if results.get(key, {}).get("status") == "survived"]
    reasons = defaultdict(list)
    for key in alive:
        if key in equivalent:
            reasons[equivalent[key]].append(key)
    modules = list(dict.fromkeys(key.partition(" | ")[0] for key in population))
    return {
        "all": counts(list(population)),
        "modules": {name: counts([key for key in population if key.startswith(f"{name} | ")]) for name in modules},
        "kinds": {
            kind: counts([key for key in population if population[key] == kind]) for kind in sorted(set(population.values()))
        },
        "equivalent": [{"reason": reason, "mutants": keys} for reason, keys in reasons.items()],
        "survived": [key for key in alive if key not in equivalent],
    }


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def _write(path: Path, record: dict) -> None:
    from gloro_lite.files import write_json  # not before the tests are collected

    path.parent.mkdir(exist_ok=True)
    write_json(path, record)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 where every mutant dies or is listed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python tests/mutation", description="Mutate the certification modules and run the tests."
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="such as lipschitz/norms.py (default: all, and only then "
                        "is data/mutation.json written)")  # fmt: skip
    parser.add_argument("--only", metavar="TEXT", default="", help="mutants whose key holds this text")
    parser.add_argument("--quick", action="store_true", help="leave out what is listed as equivalent")
    parser.add_argument("--survivors", action="store_true", help="only what lived in the run before: after new tests")
    parser.add_argument("--seconds", type=float, default=math.inf, help="of tests for each mutant (default: all that reach it)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="after which no more mutants are begun (default: no end)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    modules = tuple(options.modules) or MODULES
    tests = [path for name in TESTS if (path := ROOT / "tests" / f"test_{name}.py").is_file()]
    known, equivalent = Known(tests), listed()

    def wanted(key: str) -> bool:
        left_out = (options.quick and key in equivalent) or (options.survivors and key not in known.survivors)
        return key not in known.results and options.only in key and not left_out

    run(modules, tests, known, wanted, seconds=options.seconds, minutes=options.minutes)
    there = {f"{module} | {mutant.key}": mutant.kind for module in modules for mutant in _Source(module).mutants}
    found = score(known.results, equivalent, {key: kind for key, kind in there.items() if options.only in key})
    for name, counts in found["modules"].items():
        print(f"{name:24}", ", ".join(f"{count} {what}" for what, count in counts.items()))
    whole = not (options.modules or options.only or options.quick)
    dead = [key for key in equivalent if known.results.get(key, {}).get("status") == "killed"]
    gone = [key for key in equivalent if whole and key not in there]
    for what, keys in (
        ("survived", found["survived"]),
        ("listed as equivalent, and killed", dead),
        ("listed as equivalent, and no mutant", gone),
    ):
        print(f"{what}:", *keys or ["none"], sep="\n  ")
    if whole:
        record = {
            "date": date.today().isoformat(),
            "commit": _commit(),
            "machine": {
                "processor": platform.machine(),
                "system": platform.system(),
                "versions": {"python": platform.python_version(), "torch": torch.__version__},
            },
            "tests": [path.name for path in tests],
            **found,
        }
        _write(OUTPUT, record)
    return 1 if found["survived"] or dead or gone else 0


if __name__ == "__main__":
    sys.exit(main())
