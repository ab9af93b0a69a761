"""What a search shows: a live view on a terminal, one plain line a generation in a pipe, a table at the end."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any, cast

from rich.console import Console, RenderableType
from rich.filesize import decimal

from lfs.columns import Column, Columns
from lfs.live import LiveArea
from lfs.outflow import Outflow
from lfs.progress import WorkProgress, duration_text, waiting
from lfs.terminal import SafeConsole, is_live
from search_space.unified_parameters import PARAMETERS


def margins_text(margins: Sequence[float]) -> str:
    """Margins for a reader: one number, or the first, middle and last of several."""
    if len(margins) <= 3:
        return " ".join(f"{m:.3f}" for m in margins)
    return f"{margins[0]:.2f} … {margins[len(margins) // 2]:.2f} … {margins[-1]:.2f}"


def parameters_text(parameters: Mapping[str, float]) -> str:
    """A loss for a reader: its margins if it has nothing else, or its first parameters by name."""
    if all(name.startswith("margin") for name in parameters):
        return margins_text(list(parameters.values()))
    shown = [f"{name} {value:.3g}" for name, value in parameters.items() if value or name not in PARAMETERS]
    return _first(shown)


def _first(texts: Sequence[str]) -> str:
    """The first four of several texts. Parameters of the space `unified` that are 0 have no effect: they are left out
    before."""
    return ", ".join(texts[:4]) + (" …" if len(texts) > 4 else "")


def policy_text(of: dict[str, Any]) -> str:
    """Mean and spread of the losses that a policy samples."""
    names = of["parameter_names"]
    if all(name.startswith("margin") for name in names):
        return f"{margins_text(of['policy_mean'])} ± {margins_text(of['policy_std'])}"
    pairs = zip(names, of["policy_mean"], of["policy_std"], strict=True)
    shown = [f"{name} {mean:.3g} ± {std:.2g}" for name, mean, std in pairs if mean or std or name not in PARAMETERS]
    return _first(shown)


def reward_text(value: float | None, se: float | None = None) -> str:
    """A score with its standard error."""
    if value is None or value != value:
        return "-"
    return f"{value:.4f}" + (f" ± {se:.4f}" if se is not None and se == se else "")


def age_text(seconds: float | None) -> str:
    """How long ago, in the largest unit that it fills twice."""
    if seconds is None:
        return "-"
    units = (("d", 86_400), ("h", 3600), ("min", 60))
    name, length = next(((name, length) for name, length in units if seconds >= 2 * length), ("s", 1))
    return f"{seconds // length:.0f} {name}"


def size_text(num_bytes: float | None) -> str:
    """Bytes with a unit, thousands."""
    return "-" if num_bytes is None else decimal(int(num_bytes))


def generation_line(summary: dict[str, Any], status: dict[str, Any]) -> str:
    """One closed generation as a plain line."""
    kind = " (warm-up)" if summary["warmup"] else ""
    why = f" ({summary['why_diverged']})" if summary.get("why_diverged") else ""
    lost = f", {summary['diverged']} diverged{why}" if summary["diverged"] else ""
    lost += f", {summary['dropped']} dropped" if summary.get("dropped") else ""
    lost += f", {summary['rejected']} rejected" if summary["rejected"] else ""
    lost += ", rewards tied: nothing learned" if summary.get("tied") else ""
    left = f", {duration_text(status['eta_s'])} left" if status["eta_s"] is not None else ""
    best = reward_text(summary["best_reward"], summary["best_reward_se"])
    head = f"generation {summary['generation'] + 1}/{status['generations']}"
    rate = f"{summary['images_per_s']:,.0f} images/s{left}"
    if summary["mode"] == "fixed":
        return f"{head}: reward {best}, training loss {summary['train_loss']:.3f}, {rate}"
    won = parameters_text(summary["winner_parameters"])
    what = "margin" if summary["winner_margins"] else "loss"
    return (
        f"{head}{kind}: best {best}, mean {summary['mean_reward']:.4f}{lost}, "
        f"winner's {what} {won}, policy {policy_text(summary)}, {rate}"
    )


def summary_table(summaries: Sequence[dict[str, Any]], *, says_less: bool = True) -> Columns:
    """Generations as a table; where it is narrow, the policy goes first, then who won, then the loss.

    Args:
        says_less: name what is left out.
    """
    numbers = [f"{s['generation'] + 1}" + ("w" if s["warmup"] else "") for s in summaries]
    best = [reward_text(s["best_reward"], s["best_reward_se"]) for s in summaries]
    columns = [Column(title="generation", cells=numbers, right=True)]
    if summaries and summaries[0]["mode"] == "fixed":
        columns.append(Column(title="reward", cells=best, right=True))
        losses = [f"{s['train_loss']:.3f}" for s in summaries]
        return Columns(columns=[*columns, Column(title="training loss", cells=losses, right=True, rank=1)])
    what = "margin" if not summaries or summaries[0]["winner_margins"] else "loss"
    won = [parameters_text(s["winner_parameters"]) for s in summaries]
    columns += [
        Column(title="best reward", cells=best, right=True),
        Column(title="mean", cells=[f"{s['mean_reward']:.4f}" for s in summaries], right=True, rank=1),
        Column(title="winner", cells=[str(s["winner"]) for s in summaries], right=True, rank=3),
        Column(title=f"winner's {what}", cells=won, rank=2),
        Column(title=f"policy {what}", cells=[policy_text(s) for s in summaries], rank=4),
    ]
    return Columns(columns=columns, says_less=says_less)


def score_lines(metrics: dict[str, float]) -> list[str]:
    """The final model's test scores, a line for each set and for listed and all pairs."""
    lines: dict[str, list[str]] = {}
    for name, value in metrics.items():
        place, _, metric = name.rpartition("/")
        short = metric.removeprefix("all:")
        if short.endswith("_se") or short == "threshold":
            continue
        title = ", ".join(["test", *([place] if place else []), *(["all pairs"] if short != metric else [])])
        label = f"TAR@FAR={_far_text(short[8:])}" if short.startswith("tar@far=") else METRIC_TITLES.get(short, short)
        lines.setdefault(title, []).append(f"{label} {reward_text(value, metrics.get(f'{name}_se'))}")
    return [f"{title}: {', '.join(scores)}" for title, scores in lines.items()]


def _far_text(far: str) -> str:
    try:
        return f"{float(far):g}"
    except ValueError:
        return far


SETTLE_S = 5.0
"""A terminal has so long to take what is still to be shown; then the search goes on with ending."""
MAX_PENDING = 2**14
"""Characters that are on their way to a terminal; a few screens."""

RARE_STATES = {"paused", "waiting for room"}
"""States of a search that a reader of plain lines is told of."""

METRIC_TITLES = {"auc": "AUC", "d_prime": "d'"}


class View:
    """Shows one search. `say` and `warn` are lines that stay; `update` is the state that changes.

    While a search is shown, none of them waits for a terminal that is stopped (Ctrl-S), or a pipe that nobody reads.
    """

    def __init__(self, console: Console | None = None, errors: Console | None = None) -> None:
        piped = not sys.stdout.isatty()
        self.console = console or SafeConsole(soft_wrap=piped, width=200 if piped else None)
        self.errors = errors or SafeConsole(stderr=True, soft_wrap=True)
        self.shown = self.noted = 0
        self.state = "running"
        self._area: LiveArea | None = None
        self._showing = contextlib.ExitStack()
        self._flows: list[Outflow] = []
        self._lock = threading.RLock()
        self._blind = False
        self._resume = ""

    def _shown(self, show: Callable[[], None]) -> None:
        """Show something; where nobody reads any more (a closed pipe or terminal, a full disk), work goes on unseen."""
        with self._lock:
            if not self._blind:
                try:
                    self._say_what_is_left_out()
                    show()
                except (OSError, SystemExit):  # rich leaves with SystemExit when its pipe is closed
                    self._blind = True

    def _say_what_is_left_out(self) -> None:
        """On a terminal the live area is not where it was meant to be, if a piece of it is missing."""
        if self._area and (count := self._flows[0].left_out()):
            self._area.forget()
            self.console.print(f"({count:,} messages were left out while nobody read them)", markup=False)

    def say(self, line: str) -> None:
        """One line for the record."""
        self._shown(lambda: self.console.print(line, markup=False))

    def command(self, title: str, line: str) -> None:
        """One line with a command to copy, which is not broken where the terminal ends."""
        self._shown(lambda: self.console.print(f"{title:13} {line}", markup=False, soft_wrap=True))

    def warn(self, line: str) -> None:
        """One line that asks for attention, on the error stream; on a terminal, above what is live there."""
        same = self._area is not None and self.errors.is_terminal
        to = self.console if same else self.errors
        self._shown(lambda: to.print(f"warning: {line}", markup=False))

    @contextlib.contextmanager
    def progress(
        self, title: str, unit: str = "pictures", *, announce: bool = True
    ) -> Iterator[Callable[[int, int], None]]:
        """A callback (done, total) behind a progress bar; in a pipe, a line now and then, and one when it starts."""
        with WorkProgress(unit, self.console, announce=announce) as work:
            yield lambda done, total: self._shown(lambda: work.update(title, done, total))

    def waiting(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Says in the block that something is waited for, if that takes longer than a moment."""
        return waiting(what, self.console)

    def begin(self) -> None:
        """From here to `stop` nothing waits for who reads, and on a terminal there is something that is drawn anew."""
        if not self._flows:
            self._flows = flows_of(self.console, self.errors)
            atexit.register(self._end)
        for flow in self._flows:
            flow.flow()
        if is_live(self.console):
            self._area = LiveArea(self.console)
            self._showing.enter_context(self._area.shown())

    def draw(self, content: RenderableType) -> None:
        """Draw this below all lines from now on; not yet, if what was drawn before is still on its way."""
        if (area := self._area) and self._flows[0].pending <= MAX_PENDING:
            self._shown(lambda: area.show(content))

    def start(self, status: dict[str, Any], *, attached: bool = False) -> None:
        """Begin to show a search; generations that are behind already are not told again."""
        self.shown, self.noted, self.state = len(status["summaries"]), 0, status["state"]
        where = f"generation {min(status['generation'] + 1, status['generations'])} of {status['generations']}"
        if attached:
            self.say(f"{status['name']} ({status['run']}), {status['state']}, {where}")
        elif self.shown and status["candidates"]:
            self.say(f"resuming at {where}")
        self.begin()
        self._draw(status)

    def _draw(self, status: dict[str, Any]) -> None:
        from lfs.search_screen import SearchScreen

        self.draw(SearchScreen(status=status))

    def update(self, status: dict[str, Any]) -> None:
        """Show the latest status; in a pipe, only generations that have closed, and states that have changed, since."""
        for note in status["notes"][self.noted :]:
            self.warn(note)
            self.noted += 1
        if self._area:
            self._draw(status)
            return
        for summary in status["summaries"][self.shown :]:
            self.say(generation_line(summary, status))
            self.shown += 1
        if status["state"] != self.state and {status["state"], self.state} & RARE_STATES:
            self.say(f"{status['state']} at generation {status['generation'] + 1} of {status['generations']}")
        self.state = status["state"]

    def stop(self) -> None:
        """Take what is live away; the final table follows."""
        with self._lock, contextlib.suppress(OSError, ValueError, SystemExit):  # its terminal may be gone
            self._say_what_is_left_out()
            self._area = None
            self._showing.close()
        self.settle(SETTLE_S)

    def settle(self, limit_s: float | None) -> None:
        """From now on whoever prints waits for who reads; wait now for what is still to be shown, at most so long."""
        until = None if limit_s is None else time.monotonic() + limit_s
        for flow in self._flows:
            flow.settle(None if until is None else max(0.0, until - time.monotonic()))

    def _end(self) -> None:
        """The process ends: then it waits for who reads its last words, as every process does."""
        self.stop()
        self.settle(None)

    def stopping(self, after: str, resume: str) -> None:
        """What a first Ctrl-C comes to, and the command that goes on later."""
        self.say(f"stopping after {after} (Ctrl-C again: now; committed ones stay)")
        self._say_once(resume)

    def stopping_now(self, resume: str) -> None:
        """What a second Ctrl-C or SIGTERM comes to; the command now, since Ray may end before this process does."""
        self.say("stopping now; Ctrl-C again does not wait for Ray")
        self._say_once(resume)

    def _say_once(self, resume: str) -> None:
        if resume != self._resume:
            self._resume = resume
            self.command("to go on", resume)

    def finish(self, run: str, status: dict[str, Any]) -> None:
        """The result: generations, test scores, and where to look further."""
        self.say("")
        self._shown(lambda: self.console.print(summary_table(status["summaries"])))
        self.say("")
        for line in score_lines(status["test"] or {}):
            self.say(line)
        self.say(f"{status['num_images']:,} training images in all")
        self.say("")
        self.command("report", f"python -m lfs.report {run}")
        self.command("generations", f"python -m lfs.results {run}")
        self.command("candidates", f"python -m lfs.results {run} --candidates")
        self.command("TensorBoard", f"tensorboard --logdir {run}")


def flows_of(console: Console, errors: Console) -> list[Outflow]:
    """What the two write to from now on; one thing, if theirs is one file: then all comes in its order."""
    one = Outflow(console.file, says=not is_live(console))
    other = one if _is_same_file(console.file, errors.file) else Outflow(errors.file)
    console.file, errors.file = cast(IO[str], one), cast(IO[str], other)
    return list(dict.fromkeys((one, other)))


def _is_same_file(one: IO[str], other: IO[str]) -> bool:
    try:
        return one is other or os.path.sameopenfile(one.fileno(), other.fileno())
    except (OSError, ValueError):  # they are no files
        return False


def default_name(recipe: str) -> str:
    """Name of a run that was given none: recipe and local time."""
    return f"{recipe or 'search'}-{time.strftime('%Y%m%d-%H%M%S')}"
