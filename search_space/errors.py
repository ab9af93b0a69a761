"""The one exception whose message is written for the person at the keyboard."""

import reprlib

MAX_SHOWN = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 100, 100, 60


class UserError(ValueError):
    """Bad input from outside: a file, a flag, a configuration value.

    The message is one line: what was expected, what was found and where (file and line), and the way out. Commands
    print it as it is, without a traceback, and exit non-zero. Everything else that is raised is a defect.
    """


def shown(value: object) -> str:
    """`repr` for a message, in bounds: a value from outside may be a gigabyte long, or refer to itself."""
    try:
        text = _SHORT.repr(value)
    except (ValueError, RecursionError):  # more digits than Python converts
        return f"a huge {type(value).__name__}"
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or what kind of error it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def require(condition: bool, law: str, value: object) -> None:
    """Raise `UserError` stating the law and the value that broke it, unless `condition` holds."""
    if not condition:
        raise UserError(f"{law}, got {shown(value)}")
