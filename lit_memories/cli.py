"""The command line: ``lit-memories fit | validate | predict --config RECIPE``, and a few tools beside Lightning's."""

import ast
import gc
import io
import locale
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from errno import EDQUOT, ENOSPC
from functools import wraps
from pathlib import Path
from typing import Any

from lit_memories.recipe_files import empty_option
from lit_memories.terminal import SAFE, printable, said

TOOLS: dict[str, tuple[str, str]] = {
    "report": ("lit_memories.report", "compare audited models: tables, figures, one HTML file"),
    "leaderboard": (
        "lit_memories.leaderboard",
        "compare erased models of many makers on one page that sorts and filters",
    ),
    "status": ("lit_memories.tools.status", "how far are these audits? for running and stopped ones"),
    "audit": ("lit_memories.tools.audit", "audit a model for a concept in one command, by a recipe that it writes"),
    "quickstart": ("lit_memories.tools.quickstart", "erase a pictogram concept and audit four models, in minutes"),
    "recipes": ("lit_memories.tools.recipes", "list the recipes that ship with this package, show or copy them"),
    "probes": ("lit_memories.tools.probes", "what an audit can ask, what it costs, and what the answer says"),
    "findings": ("lit_memories.tools.findings", "write what attacks found as a data set with a card"),
    "transfers": ("lit_memories.tools.transfers", "does what opened one model open another? a table of replays"),
    "export": ("lit_memories.tools.export", "write a base model with an erasure as a full diffusers pipeline"),
    "push": ("lit_memories.tools.export", "send an erasure, or audits, with a card to the hub"),
    "convert": (
        "lit_memories.tools.convert",
        "make an erasure of weights that another tool erased: ESD, UCE, AC, SPM …",
    ),
    "generate": ("lit_memories.tools.generate", "draw a list of prompts by a base model, with the paper's settings"),
    "draw": ("lit_memories.worlds.draw", "write pictures of the pictogram world as parquet or an image folder"),
    "measure": ("lit_memories.worlds.measure", "measure a pictogram model's quality on held-out prompts and images"),
}
"""Commands that need no Trainer: the module each is in (the function bears the command's name), and what it does."""
RECIPES = {
    "fit": "pictograms/erase/esd",
    "validate": "pictograms/erase/esd",
    "predict": "pictograms/audit/umbrella",
    "plan": "pictograms/audit/umbrella",
    "doctor": "pictograms/audit/umbrella",
}
"""Commands of Lightning's Trainer, and what they will take, each with a recipe for it."""

DESCRIPTION = """\
Did this diffusion model forget, or does it only refuse the prompt?

usage: lit-memories COMMAND [OPTIONS]

Recipes, run by Lightning's Trainer (lit-memories recipes lists those that are ready):
  fit         train: erase a concept from a model, or pretrain the pictogram models
  validate    look at an eraser's probe without training
  predict     audit: invert images to seeds and record what the model remembers
              lit-memories predict --config pictograms/audit/umbrella
  plan        tell memory and network evaluations of an audit before it runs, without loading weights
  doctor      tell what this machine has and, of a recipe, whether it fits: 0 yes, 1 no, 2 it is wrong

Tools:
{tools}

lit-memories COMMAND --help lists the options; --print_config after a recipe shows every setting it would run with.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        argv: command and options; the process's own if None.

    Raises:
        SystemExit: with 0 after help, 1 after an error of the user's, 2 after one in the command line itself, 130 after
            Ctrl-C and 141 if nobody reads the output any more, as shells have it.
    """
    if argv is None:
        _in_utf8()
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
    try:
        _run(command, argv)
        sys.stdout.flush()
    except (KeyboardInterrupt, BrokenPipeError) as error:
        raise SystemExit(_stopped(command, error)) from None
    except SystemExit as stop:  # Lightning and rich end the program themselves
        if isinstance(stop.__context__, KeyboardInterrupt | BrokenPipeError):
            raise SystemExit(_stopped(command, stop.__context__)) from None
        raise
    except OSError as error:  # of printing: of the work itself it is one line already
        raise SystemExit(f"lit-memories {command}: {_full(error) or error}") from None


def _discard() -> None:
    """Let what is still to be printed go nowhere, or it would be an error again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _full(error: Exception) -> str | None:
    """The one line for a device that is full, if an error tells of none that has a name: the output."""
    if isinstance(error, OSError) and error.errno in {ENOSPC, EDQUOT} and error.filename is None:
        _discard()
        return f"its output cannot be written: {error.strerror}"
    return None


def _run(command: str, argv: list[str]) -> None:
    if command in {"-h", "--help"}:
        tools = "\n".join(f"  {name:<11} {text}" for name, (_, text) in TOOLS.items())
        print(DESCRIPTION.format(tools=tools))  # noqa: T201 - this is the program's output
        return
    if command == "--version":
        from lit_memories import __version__

        print(__version__)  # noqa: T201
        return
    if (wrong := wrong_command(command) or wrong_option(command, argv[1:])) is not None:
        _say(command if command in (*TOOLS, *RECIPES) else "", wrong)
        raise SystemExit(2)
    from jsonargparse import ArgumentError

    logging.getLogger("transformers.utils.import_utils").addFilter(_is_news)
    gc.disable()  # a fifth of what importing libraries takes is the search for garbage, of which they make none
    try:
        _tool(command, argv[1:]) if command in TOOLS else _recipe(argv)
    except ArgumentError as error:
        _say(command, _in_full(condense(str(error)), command))
        raise SystemExit(2) from error
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        line = _full(error) or condense(str(error))
        if command == "doctor":  # whose 1 says that a recipe does not fit
            _say(command, line)
            raise SystemExit(2) from error
        raise SystemExit(f"lit-memories {command}: {line}") from error
    finally:
        gc.enable()


def _in_full(line: str, command: str) -> str:
    """An error of the parser; of a recipe's part with the option's whole name."""
    if command not in RECIPES:
        return line
    from lit_memories.recipes import option_in_full

    return option_in_full(line)


def _is_news(record: logging.LogRecord) -> bool:
    """Whether a library's message is of use; how it would resize pictures that nobody shows it is of none."""
    return "requires torchvision (not installed)" not in record.getMessage()


def _stopped(command: str, error: BaseException) -> int:
    """The exit code of a command that was stopped from outside; an audit says how to go on."""
    interrupted = isinstance(error, KeyboardInterrupt)
    if not interrupted:
        _discard()
    if os.environ.get("LOCAL_RANK", "0") == "0" and (interrupted or command in RECIPES):
        what = "interrupted" if interrupted else "nobody reads its output any more"
        _say(command, f"{what}; {SAFE}" if command == "predict" else what)
    return 130 if interrupted else 141


def _say(command: str, line: str) -> None:
    print(f"lit-memories {command}".rstrip() + f": {printable(line)}", file=sys.stderr)  # noqa: T201


def wrong_command(command: str) -> str | None:
    """What is wrong with a command's name, in one line; None if nothing is."""
    known = (*RECIPES, *TOOLS)
    if command in known:
        return None
    near = get_close_matches(command, known, 1)
    meant = f", did you mean {near[0]}?" if near else ":"
    return f"no command '{printable(command)}'{meant} choose {', '.join(known)}"


OPTIONS = {
    "config", "help", "print_config", "seed_everything", "trainer", "model", "data", "ckpt_path", "weights_only",
    "return_predictions", "verbose",
}  # fmt: skip
"""Where options of recipes begin, with `recipes.RecipeCLI`; what follows a dot is the parser's to know."""


def wrong_option(command: str, argv: Sequence[str]) -> str | None:
    """What is wrong with a command's options, as far as can be told before anything heavy is imported.

    Args:
        command: a recipe's or a tool's.
        argv: what follows it.

    Returns:
        One line, or None if nothing is.
    """
    known = OPTIONS | {"json"} if command == "doctor" else OPTIONS
    known = known if command in RECIPES else {*_arguments(*_home(command)), "config", "help", "print_config"}
    for argument in argv:
        name = re.split(r"[=.+]", argument.removeprefix("--"), maxsplit=1)[0]
        if argument.startswith("--") and name.replace("-", "_") not in known:
            near = get_close_matches(name, sorted(known), 1)
            meant = f", did you mean --{near[0]}?" if near else f": lit-memories {command} --help lists them"
            return f"no option --{printable(name)}{meant}"
    if (empty := empty_option(argv)) is not None:
        return f"{printable(empty)} is empty: give it a value, or leave it out"
    needed = re.compile(r"(--config|-c|--model|--help|-h)\b")
    alone = command == "doctor" and set(argv) <= {"--json"}
    if command in RECIPES and not alone and not any(map(needed.match, argv)):
        many = "it needs a recipe, and lit-memories recipes lists many"
        return f"{many}: lit-memories {command} --config {RECIPES[command]}"
    return None


def _home(command: str) -> tuple[Path, str]:
    """The file that a tool is written in, and the function's name."""
    place = Path(__file__).parent.joinpath(*TOOLS[command][0].split(".")[1:])
    return (place / "main.py" if place.is_dir() else place.with_suffix(".py")), command


def _arguments(file: Path, function: str) -> set[str]:
    """The arguments of a function, read without importing its file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    raise LookupError(f"{file} has no function {function}")


def _in_utf8() -> None:
    """Start anew in Python's UTF-8 mode where the locale is another one, in which libraries would read recipes."""
    if not sys.flags.utf8_mode and locale.getpreferredencoding(False).lower().replace("-", "") != "utf8":
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts, too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # its encoding may still be told to be another one


_BOILERPLATE = re.compile(r"(?:- )?(?:Does not validate|Subtypes: |Errors:$|Expected a <class 'NoneType'>|Given value)")


def condense(message: str) -> str:
    """One line of an error: jsonargparse wraps what went wrong in types tried and values given.

    Example:
        >>> condense("Parser key 'model':" + chr(10) + "  Errors:" + chr(10) + "    - Option 'etaa' is not accepted")
        "Parser key 'model': Option 'etaa' is not accepted"
    """
    lines = [line.strip() for line in message.splitlines()]
    kept = [line.removeprefix("- ").replace('"', "'") for line in lines if line and not _BOILERPLATE.match(line)]
    return said(" ".join(dict.fromkeys(kept)) or message)


def _tool(name: str, argv: list[str]) -> None:
    from importlib import import_module

    from jsonargparse import auto_cli

    from lit_memories.recipe_files import check_values
    from lit_memories.recipe_names import named

    function: Callable[..., Any] = getattr(import_module(TOOLS[name][0]), name)
    gc.enable()
    argv = named(argv)
    check_values(argv)
    if name in MANY:
        _of_many(name, function, argv)
    else:
        if name not in {"probes", "draw"}:
            from lit_memories.recipes import quiet, quiet_libraries

            quiet()
            quiet_libraries()
        prog = f"lit-memories {name}"
        auto_cli(_checked(function), args=argv, as_positional=True, prog=prog, exit_on_error=False)


MANY: dict[str, tuple[str, str | None, type, str]] = {
    **dict.fromkeys(("report", "status", "findings", "transfers"), ("runs", "+", Path, "run folders")),
    "leaderboard": ("folders", "+", str, "run folders, folders that hold some, or ids on the hub"),
    "recipes": ("words", "*", str, "list [FOLDER], show NAME or copy NAME|FOLDER DEST; list if there are none"),
    "audit": ("model", None, str, "erasure or whole model: folder or hub id"),
}
"""Tools whose arguments are called, are so many, and are what is said here; all else that they take is an option."""


def _of_many(name: str, function: Callable[..., Any], argv: list[str]) -> None:
    """A tool whose arguments `auto_cli` cannot express: any number, or one beside options that must be there."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"lit-memories {name}", description=TOOLS[name][1], exit_on_error=False)
    many, count, kind, meaning = MANY[name]
    parser.add_argument(many, nargs=count, type=kind, help=meaning)
    parser.add_function_arguments(function, skip={many})
    _checked(function)(**parser.parse_args(argv).as_dict())


def _checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A tool that refuses numbers which are none, or beyond all measure."""
    from lit_memories.settings import check_numbers, check_sizes

    @wraps(function)
    def checked(**arguments: Any) -> None:
        check_numbers(arguments)
        check_sizes(arguments)
        function(**arguments)

    return checked


def _recipe(argv: list[str]) -> None:
    from lit_memories.recipe_files import check_values, overridden
    from lit_memories.recipe_names import named

    argv = named(argv)
    check_values(argv)
    for option in overridden(argv[1:]):
        _say(argv[0], f"{option} stands before --config and is overridden by it: put it after")
    if argv[0] == "plan":
        from lit_memories.tools.plan import plan

        plan(argv)
    elif argv[0] == "doctor":
        from lit_memories.tools.doctor import doctor

        if code := doctor(argv):
            raise SystemExit(code)
    else:
        from lit_memories.recipes import run

        run(argv)
