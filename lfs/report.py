"""A run explained on one page: rewards, policy, the loss, where the gain came from, trainers, cost, verification.

Examples:
    python -m lfs.report runs/NAME                             NAME.html, one file that needs nothing else
    python -m lfs.report runs/NAME --out report.html --png figures
    python -m lfs.report runs/NAME --serve                     the same, live, while the search runs

The final model's ROC and its hardest pairs are measured anew where the test pictures are still there (--no-evaluation
leaves that out). A report of a run with faces has some of them in it.
"""

import argparse
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from lfs.commands import OK, run_command
from lfs.options import Parser, number_from
from lfs.outputs import refuse_existing
from lfs.plugins import add_allow_flag
from lfs.progress import reading
from lfs.report_faces import Faces, look_at_faces
from lfs.report_live import Live, ReportServer
from lfs.report_page import page
from lfs.report_run import Run, RunReader
from lfs.report_sections import Section, sections
from lfs.terminal import printable
from lfs.view import View
from search_space.errors import first_line
from trainers.whole_file import write_bytes

PORT = 8266
"""Beside Ray's dashboard."""


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", metavar="RUN", help="a run directory")
    made.add_argument("--out", metavar="FILE", default="", help="the page to write [NAME.html]")
    made.add_argument("--png", metavar="DIR", default="", help="write each figure into a folder as well, for print")
    made.add_argument("--overwrite", action="store_true", help="replace files that are there")
    made.add_argument("--no-evaluation", action="store_true", help="do not look at the test pictures again")
    made.add_argument("--serve", action="store_true", help="show the page on loopback, up to date, until Ctrl-C")
    made.add_argument(
        "--port", type=number_from(0, 65535), metavar="N", help=f"for --serve; 0: any that is free [{PORT}]"
    )
    add_allow_flag(made)
    return made


class Reporter:
    """Makes the sections of a run, again and again; what the test pictures came to is kept.

    Args:
        evaluation: put the test pictures through the final model ...
        behind: ... in a thread, and say so until that is done.
    """

    def __init__(self, uri: str, view: View, *, evaluation: bool, behind: bool = False) -> None:
        self.reader, self._view, self._behind = RunReader(uri), view, behind
        self._faces: Faces | str = "" if evaluation else "--no-evaluation was given"
        self._evaluation = evaluation
        self._looked_at: object = None
        self._shown: tuple[object, list[Section]] = None, []

    def faces(self, run: Run) -> Faces | str:
        """What the final model makes of its test pictures, or why that is not known."""
        result = run.result or {}
        if self._evaluation and self._looked_at != result:
            self._looked_at, self._faces = result, "the test pictures are going through the final model"
            if self._behind and result:
                threading.Thread(target=self._look, args=(run,), name="faces", daemon=True).start()
            else:
                self._look(run)
        return self._faces

    def _look(self, run: Run) -> None:
        found: Faces | str
        try:
            with self._view.progress("final model on its test pictures") as progress:
                found = look_at_faces(run, progress)
        except Exception as error:  # the report has all the rest without it
            found = first_line(error)
        if self._looked_at == (run.result or {}):  # else another model has come meanwhile
            self._faces = found

    def sections(self) -> list[Section]:
        """The report as it is now.

        Raises:
            UserError: there is no such run.
        """
        run = self.reader.read()
        faces = self.faces(run)
        # generations that are known are the same objects
        shows = [*map(id, run.generations), run.state, run.result, run.events, run.missing, run.settings, id(faces)]
        if self._shown[0] != shows:
            self._shown = shows, sections(run, faces)
        return self._shown[1]


def serve(reporter: Reporter, port: int, view: View) -> int:
    """Show the live page until Ctrl-C."""
    live = Live(reporter.sections, f"{reporter.reader.store.name}: loss-function search")
    with ReportServer(live, port) as server:
        view.say(f"live report   {server.address}   (Ctrl-C ends it; the search goes on)")
        sys.stdout.flush()
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            view.say("")
    return OK


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    made = parser()
    options = made.parse_args(argv)
    if options.port is not None and not options.serve:
        made.error("--port goes with --serve")
    if options.serve and (options.out or options.png or options.overwrite):
        made.error("--serve writes no files: leave out --out, --png and --overwrite")
    view = View()
    reporter = Reporter(options.run, view, evaluation=not options.no_evaluation, behind=options.serve)
    if options.serve:
        return serve(reporter, PORT if options.port is None else options.port, view)
    with reading() as progress:
        run = reporter.reader.read(progress)
    out = Path(options.out).expanduser() if options.out else Path(f"{run.store.name}.html")
    refuse_existing([out], options.overwrite)
    pictures = {}
    faces = reporter.faces(run)
    if options.png:
        from lfs.report_png import figures  # matplotlib takes a second

        folder = Path(options.png).expanduser()
        pictures = {folder / name: data for name, data in figures(run, faces).items()}
        refuse_existing(list(pictures), options.overwrite)
    for line in run.missing:
        view.warn(f"missing in the report: {line}")
    title = f"{run.store.name}: loss-function search"
    text = page(title, sections(run, faces), made=f"made on {datetime.now():%Y-%m-%d %H:%M}")
    write_bytes(out, text.encode())
    for path, data in pictures.items():
        write_bytes(path, data)
    also = f", {len(pictures)} figures in {options.png}" if pictures else ""
    view.say(f"report   {printable(str(out))} ({len(text) / 2**20:.1f} MB){printable(also)}")
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
