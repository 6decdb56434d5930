"""What a recipe names outside the package: functions of the user's, and files.

Importing runs the user's code, so nothing here is called before a recipe has passed
every check that can be made without.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from compresskit.errors import CompressKitError, Problem, RecipeError, nearest


def load_function(
    name: str, where: str, *, error: type[CompressKitError] = RecipeError
) -> Callable[..., Any]:
    """The function that `package.module:function` names.

    The current directory can be imported from, as under `python -m`.

    Args:
        name: `package.module:function`.
        where: where the name was read, for the error.
        error: the class of the error, by what is being loaded.

    Raises:
        CompressKitError: `error`; the name has another form, the module is missing or
            fails while it is imported, or it has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not _is_module(module_name) or not attribute.isidentifier():
        raise error(
            Problem(
                where=where,
                found=repr(name),
                expected="package.module:function",
                fix=_suggest_form(module_name, attribute),
            )
        )
    module = _import(module_name, where, error)
    function = getattr(module, attribute, None)
    if callable(function):
        return function
    if hasattr(module, attribute):
        found = f"{attribute!r} in {module_name} is a {type(function).__name__}"
    else:
        found = f"module {module_name} ({_origin(module)}) has no {attribute!r}"
    raise error(
        Problem(
            where=where,
            found=found,
            expected="a function, or another object that can be called",
            fix=_suggest(attribute, _functions(module), f"define {attribute} in {module_name}"),
        )
    )


def call_function(
    name: str,
    arguments: Mapping[str, Any],
    *,
    where: str,
    error: type[CompressKitError],
    returns: str,
) -> Any:
    """Imports a function of the user's and calls it.

    Args:
        name: `package.module:function`.
        arguments: its keyword arguments.
        where: where the name was read, for the error.
        error: the class of the error.
        returns: what the function should return, in words, for the error.

    Raises:
        CompressKitError: `error`; the function cannot be loaded, or raised. What it
            raised is the `__cause__`. Errors of compresskit's own pass unchanged.
    """
    function = load_function(name, where, error=error)
    try:
        return function(**arguments)
    except CompressKitError:
        raise
    except Exception as cause:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise error(
            Problem(
                where=where,
                found=f"{name}({given}) raised {describe(cause)}",
                expected=returns,
                fix="correct the function or its args; calling it in Python shows the traceback",
            )
        ) from cause


def find_path(path: str | os.PathLike[str], base: Path | None) -> Path:
    """Where a path of a recipe leads.

    A relative path starts from the current directory or, if nothing is there, from
    `base`, the folder of the recipe. A path that leads nowhere comes back as it would
    be in the current directory, for the caller to report.
    """
    here = Path(path).expanduser()
    if here.exists() or here.is_absolute() or base is None:
        return here
    there = Path(base) / here
    return there if there.exists() else here


def missing_path(path: Path, given: str | os.PathLike[str], base: Path | None) -> str:
    """The `found` of a path that leads nowhere: every place that was looked at."""
    places = [str(path.absolute())]
    if base is not None and not Path(given).expanduser().is_absolute():
        places.append(str((Path(base) / given).absolute()))
    return f"nothing at {' or '.join(dict.fromkeys(places))}"


def describe(cause: BaseException) -> str:
    """`ValueError: the text`, the text on one line, at most 500 characters."""
    text = " ".join(str(cause).split())
    if len(text) > 500:
        text = text[:497] + "..."
    return f"{type(cause).__name__}: {text}" if text else type(cause).__name__


def _import(name: str, where: str, error: type[CompressKitError]) -> ModuleType:
    # The console script puts its own folder on the path, `python -m` the current one.
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    # A file written since the last import of its folder is invisible to cached finders.
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as cause:
        if isinstance(cause, ModuleNotFoundError) and _is_parent(cause.name, name):
            problem = Problem(
                where=where,
                found=f"no module {cause.name!r}",
                expected=f"a module {name!r} in the current directory ({here}) or installed",
                fix=_suggest(
                    cause.name or name,
                    _siblings(cause.name or name),
                    "run compresskit in the folder of the module, or pip install the module",
                ),
            )
        else:
            problem = Problem(
                where=where,
                found=f"importing {name} raised {describe(cause)}",
                expected="a module that can be imported",
                fix=f"correct the module; `python -c 'import {name}'` shows the traceback",
            )
        raise error(problem) from cause


def _is_module(name: str) -> bool:
    return _dotted(name) and not name.endswith(".py")


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _is_parent(missing: str | None, name: str) -> bool:
    return missing is not None and (name == missing or name.startswith(missing + "."))


def _siblings(missing: str) -> list[str]:
    parent, _, _ = missing.rpartition(".")
    if not parent:
        return [module.name for module in pkgutil.iter_modules([os.getcwd()])]
    folder = getattr(sys.modules.get(parent), "__path__", None)
    return [f"{parent}.{module.name}" for module in pkgutil.iter_modules(folder)] if folder else []


def _functions(module: ModuleType) -> list[str]:
    return [
        name for name, value in vars(module).items() if callable(value) and not name.startswith("_")
    ]


def _origin(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built in"


def _suggest(word: str, valid: list[str], otherwise: str) -> str:
    match = nearest(word, valid)
    return f"did you mean {match!r}?" if match else otherwise


def _suggest_form(module: str, attribute: str) -> str:
    guess = module.removesuffix(".py").strip("./").replace("/", ".")
    if not attribute and _dotted(guess) and "." in guess and not module.endswith(".py"):
        guess, _, attribute = guess.rpartition(".")
    if _dotted(guess):
        return f"write {guess}:{attribute if attribute.isidentifier() else 'FUNCTION'}"
    return "write the module with dots, a colon and the function's name"
