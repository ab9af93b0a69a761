"""The one exception whose message is written for the person at the keyboard."""


class UserError(ValueError):
    """Bad input from outside: a file, a flag, a configuration value.

    The message is one line: what was expected, what was found and where (file and line), and the way out. Commands
    print it as it is, without a traceback, and exit non-zero. Everything else that is raised is a defect.
    """


def require(condition: bool, law: str, value: object) -> None:
    """Raise `UserError` stating the law and the value that broke it, unless `condition` holds."""
    if not condition:
        raise UserError(f"{law}, got {value!r}")
