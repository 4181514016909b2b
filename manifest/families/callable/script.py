"""Classes and functions of a script or a notebook: the statements that one needs, and nothing else of the file.

Importing a script would run it: train, download, parse a command line. So only those statements at the top of the file
are run that bind what is asked for, and whatever these refer to in turn. Their text is what a manifest records.
"""

from __future__ import annotations

import ast
import difflib
import json
import linecache
import os
import symtable
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from manifest.digests import text_digest
from manifest.errors import InputError, NotGrantedError, UnknownModelError, one_line
from manifest.grants import NOTEBOOK, is_installed

MAIN = ("__main__", "__mp_main__")
"""What the module of the script that runs is called; the second in a process that it spawned."""
_ENDINGS = (".py", ".ipynb")


@dataclass(frozen=True)
class Script:
    """A script or a notebook.

    Attributes:
        path: Where it lies; for the notebook that runs, only a name.
        text: What is in it; of a notebook the code of its cells.
        main: The module that it runs as, where it is the one that runs.
    """

    path: Path
    text: str
    main: ModuleType | None = None

    def find(self, attribute: str, beside: str = "") -> Any:
        """The class or function of that name which it defines.

        Args:
            attribute: The name.
            beside: The name of another, whose own it is to be if that one needs it too.

        Raises:
            UnknownModelError: It has none, or what that needs cannot be run.
            NotGrantedError: It is one that the script imports from elsewhere.
        """
        module = self.main or _run(self, beside or attribute)
        if not hasattr(module, attribute):
            module = self.main or _run(self, attribute)
        found = getattr(module, attribute, None)
        if found is None:
            raise UnknownModelError(f"The script {self.path.name} has no {attribute!r}; correct the name.")
        if getattr(found, "__module__", None) not in (module.__name__, *(MAIN if self.main else ())):
            raise NotGrantedError(f"{attribute!r} of {self.path.name} is defined elsewhere; name its own module.")
        return found

    def needed(self, attribute: str) -> str:
        """The text of the statements that a name at the top of it needs."""
        lines = self.text.splitlines(keepends=True)
        return "\n\n".join(_segment(lines, each) for each in _statements(self, attribute)) + "\n"


def is_script(module: str) -> bool:
    """Whether the part of a factory's name before the colon is the name of a file."""
    return module.endswith(_ENDINGS) and module == Path(module).name


def running() -> Script | None:
    """The script or the notebook that this process runs; None of a module, of `-c` and of a plain prompt."""
    main = sys.modules.get("__main__")
    if main is None or _module_that_runs() is not None:
        return None
    file = getattr(main, "__file__", None)
    if file is not None:
        text = "".join(linecache.getlines(str(file)))  # as it was when somebody first asked, if it was edited since
        return Script(Path(file), text, main) if text and is_script(Path(file).name) else None
    cells = getattr(main, "In", None)
    if not isinstance(cells, list) or not hasattr(main, "get_ipython"):
        return None
    name = getattr(main, "__vsc_ipynb_file__", None) or os.environ.get("JPY_SESSION_NAME") or NOTEBOOK
    return Script(Path(Path(name).name), _code([str(cell) for cell in cells]), main)


def read(path: Path) -> Script:
    """A script or a notebook out of its file.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
            content = _code(["".join(cell["source"]) for cell in cells])
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); pass the path of the script.") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is no script or notebook in UTF-8; pass the path of the script.") from None
    return Script(path, content)


def name_of(kind: Any) -> str | None:
    """Under what name a class or a function can be found again; None where it cannot.

    That is `package.module:name`, or `train.py:name` of one that is defined in the script that runs.
    """
    module, name = kind.__module__, kind.__qualname__
    if "<locals>" in name:
        return None
    if module not in MAIN:
        return f"{module}:{name}"
    if (run := _module_that_runs()) is not None:
        return f"{run}:{name}"
    script = running()
    return None if script is None else f"{script.path.name}:{name}"


def own_name(factory: str, value: Any) -> str | None:
    """Under what name a class or a function of the user's own is found by whoever finds a factory.

    That is the name alone where it is defined beside the factory, and `package.module:name` elsewhere.

    Args:
        factory: Its name, or the module or script of it.
        value: The class or function.

    Returns:
        None for what an installed package or Python itself defines, unless that is the factory's own package.
    """
    if not isinstance(getattr(value, "__qualname__", None), str) or not isinstance(value.__module__, str):
        return None
    home, full = factory.partition(":")[0], name_of(value) or ""
    module, _, name = full.partition(":")
    if not name.isidentifier():
        return None
    if module == home:
        return name
    same_package = module.partition(".")[0] == home.partition(".")[0]
    return full if same_package or is_script(module) or _is_of_user(module) else None


def _is_of_user(module: str) -> bool:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and module.partition(".")[0] not in sys.stdlib_module_names and not is_installed(file)


def find_in_main(module: str, attribute: str) -> Any:
    """What a module that was started by `python -m` has under a name; None where it is not the one that runs."""
    return getattr(sys.modules["__main__"], attribute, None) if module == _module_that_runs() else None


def difference(recorded: str, now: str, name: str) -> str:
    """What changed in the statements that a class needs, as a unified diff."""
    lines = difflib.unified_diff(
        recorded.splitlines(), now.splitlines(), f"{name}, recorded", f"{name}, now", lineterm="", n=1
    )
    return "\n".join(lines)


def _module_that_runs() -> str | None:
    """The name of the module that was started by `python -m`; None of a script."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return None if spec is None or spec.name in MAIN else str(spec.name)


def _code(cells: Sequence[str]) -> str:
    """The Python of a notebook's cells, without its commands (`%matplotlib`, `!pip`)."""
    kept = []
    for cell in cells:
        if not cell.lstrip().startswith("%%"):
            lines = [line for line in cell.splitlines() if not line.lstrip().startswith(("%", "!"))]
            kept.append("\n".join(lines))
    return "\n".join(kept)


def _run(script: Script, attribute: str) -> ModuleType:
    """The statements that a name needs, run in a module of their own, once while they stay what they are."""
    text = script.needed(attribute)
    digest = text_digest([str(script.path.absolute()), text]).rpartition(":")[2][:16]
    name = f"_{script.path.stem}_{digest}" if script.path.stem.isidentifier() else f"_script_{digest}"
    known = sys.modules.get(name)
    if known is not None and hasattr(known, attribute):
        return known
    module = ModuleType(name)
    module.__file__ = str(script.path)
    sys.modules[name] = module
    program = ast.Module(body=_statements(script, attribute), type_ignores=[])
    sys.path.insert(0, str(script.path.absolute().parent))  # as it is for a script that runs
    try:
        exec(compile(program, str(script.path), "exec"), vars(module))
    except BaseException as error:  # whatever a script does, also leave
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UnknownModelError(
            f"{attribute!r} of {script.path.name} cannot be made without running the script "
            f"({type(error).__name__}: {one_line(error)}); move it into a module of its own."
        ) from error
    finally:
        sys.path.remove(str(script.path.absolute().parent))
    return module


def _statements(script: Script, attribute: str) -> list[ast.stmt]:
    """The statements at the top of a script that bind a name, and what they refer to, in their order.

    Raises:
        UnknownModelError: None binds it, or the script cannot be parsed.
    """
    try:
        tree = ast.parse(script.text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise UnknownModelError(
            f"{script.path.name} is no script of this Python ({one_line(error)}); pass the one that made the model."
        ) from None
    body = [each for each in tree.body if not _is_main_block(each)]
    binding: dict[str, list[ast.stmt]] = {}
    for each in body:
        for name in _bound(each):
            overwrites = isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            binding[name] = [each] if overwrites else [*binding.get(name, []), each]
    if attribute not in binding:
        raise UnknownModelError(f"The script {script.path.name} has no {attribute!r}; correct the name.")
    lines = script.text.splitlines(keepends=True)
    found = {id(each): each for each in body if _is_always_needed(each)}
    waiting = [attribute]
    seen = set(waiting)
    while waiting:
        for each in binding.get(waiting.pop(), []):
            found[id(each)] = each
            new = _referred(lines, each) - seen
            seen |= new
            waiting += new
    return [each for each in body if id(each) in found]


def _is_main_block(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in {
        each.id for each in ast.walk(statement.test) if isinstance(each, ast.Name)
    }


def _is_always_needed(statement: ast.stmt) -> bool:
    """Of an import from the future, and of everything from a module, nobody knows who needs it."""
    return isinstance(statement, ast.ImportFrom) and (
        statement.module == "__future__" or statement.names[0].name == "*"
    )


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement binds at the top of a module."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name
        return
    for each in ast.walk(statement):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            yield each.id
        elif isinstance(each, ast.alias):
            yield each.asname or each.name.partition(".")[0]
        elif isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield each.name


def _referred(lines: Sequence[str], statement: ast.stmt) -> set[str]:
    """The names of the module that a statement refers to, at once or when what it defines is called."""
    names = set()
    tables = [symtable.symtable(_segment(lines, statement), "<script>", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        top = table.get_type() == "module"
        names |= {each.get_name() for each in table.get_symbols() if each.is_referenced() and (top or each.is_global())}
    return names


def _segment(lines: Sequence[str], statement: ast.stmt) -> str:
    """The text of a statement, with its decorators."""
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(each.lineno for each in decorators)])
    end = statement.end_lineno or first
    if first == end and not decorators:  # others may stand on its line
        line = lines[first - 1].encode()
        return str(line[statement.col_offset : statement.end_col_offset], "utf-8")
    return "".join(lines[first - 1 : end]).rstrip("\n")
