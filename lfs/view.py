"""What a search shows: a live view on a terminal, one plain line a generation in a pipe, a table at the end."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.filesize import decimal
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lfs.terminal import SafeConsole
from search_space.unified_parameters import PARAMETERS

MAX_ROWS = 16
"""Candidates shown one by one in the live view."""


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


def duration_text(seconds: float | None) -> str:
    """h:mm:ss, or `?`."""
    if seconds is None:
        return "?"
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}"


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


def summary_table(summaries: Sequence[dict[str, Any]]) -> Table:
    """Generations as a table."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    if summaries and summaries[0]["mode"] == "fixed":
        for title in ("generation", "reward", "training loss"):
            table.add_column(title, justify="right", no_wrap=True)
        for s in summaries:
            reward = reward_text(s["best_reward"], s["best_reward_se"])
            table.add_row(f"{s['generation'] + 1}", reward, f"{s['train_loss']:.3f}")
        return table
    what = "margin" if not summaries or summaries[0]["winner_margins"] else "loss"
    for title in ("generation", "best reward", "mean", "winner", f"winner's {what}", f"policy {what}"):
        table.add_column(title, justify="left" if what in title else "right", no_wrap=True)
    for s in summaries:
        number = f"{s['generation'] + 1}" + ("w" if s["warmup"] else "")
        best = reward_text(s["best_reward"], s["best_reward_se"])
        won = parameters_text(s["winner_parameters"])
        table.add_row(number, best, f"{s['mean_reward']:.4f}", str(s["winner"]), won, policy_text(s))
    return table


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


RARE_STATES = {"paused", "waiting for room"}
"""States of a search that a reader of plain lines is told of."""

METRIC_TITLES = {"auc": "AUC", "d_prime": "d'"}


class View:
    """Shows one search. `say` and `warn` are lines that stay; `update` is the state that changes."""

    def __init__(self, console: Console | None = None, errors: Console | None = None) -> None:
        piped = not sys.stdout.isatty()
        self.console = console or SafeConsole(soft_wrap=piped, width=200 if piped else None)
        self.errors = errors or SafeConsole(stderr=True, soft_wrap=True)
        self.live: Live | None = None
        self.shown = self.noted = 0
        self.state = "running"
        self._blind = False

    def _shown(self, show: Callable[[], None]) -> None:
        """Show something; where nobody reads any more (a closed pipe, a full disk), work goes on unseen."""
        if not self._blind:
            try:
                show()
            except (OSError, SystemExit):  # rich leaves with SystemExit when its pipe is closed
                self._blind = True

    def say(self, line: str) -> None:
        """One line for the record."""
        self._shown(lambda: self.console.print(line, markup=False))

    def warn(self, line: str) -> None:
        """One line that asks for attention, on the error stream."""
        self.errors.print(f"warning: {line}", markup=False)

    def progress(self, title: str) -> Callable[[int, int], None]:
        """A callback (done, total) behind a progress bar; in a pipe, a line when it starts and nothing else."""
        bar = _Bar(self.console, title)
        return bar.update

    def start(self, status: dict[str, Any], *, attached: bool = False) -> None:
        """Begin to show a search; generations that are behind already are not told again."""
        self.shown, self.noted, self.state = len(status["summaries"]), 0, status["state"]
        where = f"generation {min(status['generation'] + 1, status['generations'])} of {status['generations']}"
        if attached:
            self.say(f"{status['name']} ({status['run']}), {status['state']}, {where}")
        elif self.shown and status["candidates"]:
            self.say(f"resuming at {where}")
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self.live = Live(live_view(status), console=self.console, refresh_per_second=4, transient=True)
            self.live.start()

    def update(self, status: dict[str, Any]) -> None:
        """Show the latest status; in a pipe, only generations that have closed, and states that have changed, since."""
        for note in status["notes"][self.noted :]:
            self.warn(note)
            self.noted += 1
        if self.live:
            live = self.live
            self._shown(lambda: live.update(live_view(status)))
            return
        for summary in status["summaries"][self.shown :]:
            self.say(generation_line(summary, status))
            self.shown += 1
        if status["state"] != self.state and {status["state"], self.state} & RARE_STATES:
            self.say(f"{status['state']} at generation {status['generation'] + 1} of {status['generations']}")
        self.state = status["state"]

    def stop(self) -> None:
        """Take the live view away; the final table follows."""
        if self.live:
            self.live.stop()
            self.live = None

    def finish(self, run: str, status: dict[str, Any]) -> None:
        """The result: generations, test scores, and where to look further."""
        self.say("")
        self._shown(lambda: self.console.print(summary_table(status["summaries"])))
        self.say("")
        for line in score_lines(status["test"] or {}):
            self.say(line)
        self.say(f"{status['num_images']:,} training images in all")
        self.say("")
        self.say(f"report        python -m lfs.report {run}")
        self.say(f"generations   python -m lfs.results {run}")
        self.say(f"candidates    python -m lfs.results {run} --candidates")
        self.say(f"TensorBoard   tensorboard --logdir {run}")


class _Bar:
    """A progress bar that appears with the first call and goes with the last."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.bar: Progress | None = None
        self.task: Any = None

    def update(self, done: int, total: int) -> None:
        """`done` of `total` are behind."""
        if self.bar is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.completed}/{task.total}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
            if not self.console.is_terminal:
                self.console.print(f"{self.title} ...", markup=False)
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=total)
        self.bar.update(self.task, completed=done)
        if done >= total:
            self.bar.stop()


def live_view(status: dict[str, Any]) -> RenderableType:
    """The state of a search as one screen."""
    what = "margin" if all(name.startswith("margin") for name in status["parameter_names"]) else "loss"
    policy = "" if status["mode"] == "fixed" else f"policy {what} {policy_text(status)}"
    best = f"best reward {reward_text(status['best'])}"
    left = duration_text(status["eta_s"])
    trainers = "" if status["mode"] == "fixed" else f"{status['trainers']} trainers   "
    rate = f"{status['images_per_s']:,.0f} images/s   {trainers}{left} left"
    rate += f"   {status['rejected']} draws rejected" if status["rejected"] else ""
    number = min(status["generation"] + 1, status["generations"])
    warm = " (warm-up)" if status["mode"] != "fixed" and status["generation"] < status["warmup_generations"] else ""
    state = "" if status["state"] in ("running", "testing") else f"   {status['state']}"
    head = Text(f"generation {number}/{status['generations']}{warm}{state}   {best}   {policy}", style="bold")
    parts: list[RenderableType] = [head, Text(rate, style="dim")]
    parts.append(Text("testing the final model ...") if status["testing"] else candidate_table(status["candidates"]))
    if status["summaries"]:
        parts += [Text(""), summary_table(status["summaries"][-8:])]
    return Group(*parts)


def candidate_table(candidates: Sequence[dict[str, Any]]) -> Table:
    """The running generation's candidates."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    what = "margin" if all(c["margins"] for c in candidates) else "loss"
    for title in ("candidate", "state", "reward", what):
        table.add_column(title, no_wrap=True, justify="right" if title == "candidate" else "left")
    for c in candidates[:MAX_ROWS]:
        state = c["state"]
        if state == "running" and c["total"]:
            state = f"running {100 * c['done'] // c['total']:3d} %"
        style = {"done": "green", "diverged": "red", "dropped": "red", "queued": "dim"}.get(c["state"], "")
        table.add_row(
            str(c["index"]),
            Text(f"{state:13}", style=style),
            reward_text(c["reward"], c["reward_se"]),
            parameters_text(c["parameters"]),
        )
    if len(candidates) > MAX_ROWS:
        table.add_row("...", f"and {len(candidates) - MAX_ROWS} more", "", "")
    return table


def default_name(recipe: str) -> str:
    """Name of a run that was given none: recipe and local time."""
    return f"{recipe or 'search'}-{time.strftime('%Y%m%d-%H%M%S')}"
