"""The page in a real browser: drawn, true to the run, up to date, and quiet."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lfs import report
from lfs.report_page import page
from lfs.report_sections import sections
from tests.lfs.conftest import Command
from tests.lfs.report_runs import MadeRun
from tests.lfs.test_report_page import HOSTILE, hostile_faces, hostile_run

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="needs a browser: apt-get install chromium"), pytest.mark.timeout(900),
]  # fmt: skip
WAIT_MS = 240_000
CHARTS = ["reward", "policy", "loss", "gain", "trainers", "cost", "roc"]
DIVS = "[...document.querySelectorAll('.figures > div')]"
DRAWN = f"{DIVS}.filter(d => d.querySelector('.main-svg')).map(d => d.dataset.chart)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # No sandbox: tests may run as root, and open nothing but what they made.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=WAIT_MS)
        yield browser
        browser.close()


class Tab:
    """A page, and all that it said and asked for."""

    def __init__(self, browser: Any, width: int = 1100) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.set_default_timeout(WAIT_MS)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def until(self, expression: str) -> None:
        """Playwright's own way would evaluate a text in the page, which its policy forbids."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            self.page.wait_for_timeout(50)

    def open(self, address: str, charts: list[str]) -> None:
        self.page.goto(address)
        self.until(f"{DRAWN}.length >= {len(charts)}")
        assert self.page.evaluate(DRAWN) == charts


@pytest.fixture
def tab(browser: Any) -> Iterator[Tab]:
    tab = Tab(browser)
    yield tab
    tab.page.close()


def test_a_page_from_disk_is_drawn_and_asks_for_nothing(tab: Tab, tmp_path: Path) -> None:
    store = MadeRun(tmp_path / "run", generations=5).done()
    assert report.main([store.uri, "--out", str(tmp_path / "r.html"), "--no-evaluation"]) == 0
    tab.open(f"file://{tmp_path}/r.html", CHARTS)
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    best = tab.page.evaluate("document.getElementById('chart-reward').data.at(-1).y")
    assert best == [summary["best_reward"] for summary in store.summaries()]
    # in a narrow window the figures scroll, not the page; on paper they are as wide as it
    tab.page.set_viewport_size({"width": 420, "height": 800})
    assert tab.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    tab.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    tab.until("document.getElementById('chart-reward').clientWidth > 0")
    assert tab.page.evaluate("document.querySelector('#chart-reward .main-svg').clientWidth") == 680
    assert tab.said == []


def test_hostile_texts_do_nothing(tab: Tab, tmp_path: Path) -> None:
    made = sections(hostile_run(tmp_path), hostile_faces())
    (tmp_path / "r.html").write_text(page(HOSTILE, made, made="now"))
    tab.open(f"file://{tmp_path}/r.html", CHARTS)
    assert tab.page.title() == re.sub("\x1b", r"\\x1b", HOSTILE).replace("\u202e", "\\u202e")
    assert tab.page.evaluate("[...document.images].every(i => i.src.startsWith('data:image/jpeg'))")
    assert tab.page.evaluate("document.querySelectorAll('a:not(nav a), .figures a[href]').length") == 0
    assert [url for url in tab.asked if not url.startswith(("file:", "data:"))] == []
    assert tab.said == []


def test_a_live_page_shows_the_run_as_it_goes_on(tab: Tab, tmp_path: Path, run_command: Callable[..., Command]) -> None:
    made = MadeRun(tmp_path / "run", generations=4)
    made.generation()
    made.generation()
    command = run_command("lfs.report", made.store.uri, "--serve", "--port", "0")
    command.wait_for_line("live report", timeout_s=400)
    found = re.search(r"http://127\.0\.0\.1:\d+/", command.out.read_text())
    assert found
    tab.open(found[0], CHARTS[:-1])
    tab.page.evaluate("window.before = 1; document.querySelector('#reward details').open = true")
    for generations in (2, 3):
        if generations == 3:
            made.generation()
        shown = "document.getElementById('chart-reward').data"
        tab.until(f"{shown}.at(-1).y.length === {generations}")
        tables = [made.store.load_candidates(g) for g in range(generations)]
        assert tab.page.evaluate(f"{shown}[2].y") == [r for t in tables for r in t["reward"]]
        assert tab.page.evaluate(f"{shown}.at(-1).y") == [t["reward"].max() for t in tables]
        policy = [s["policy_mean"][0] for s in made.store.summaries()]
        assert tab.page.evaluate("document.getElementById('chart-policy').data[1].y") == policy
        rows = tab.page.evaluate(
            "[...document.querySelectorAll('#reward tbody tr')].map(r => [...r.children].map(c => c.textContent))"
        )
        assert [float(row[3]) for row in rows] == [t["reward"].max() for t in tables]
        assert f"{generations} of 4 generations" in tab.page.inner_text("#summary")
    assert tab.page.evaluate("window.before") == 1, "the page was loaded again"
    assert tab.page.evaluate("document.querySelector('#reward details').open")
    assert tab.said == []
    assert {url.partition("?")[0] for url in tab.asked if not url.startswith("data:")} == {
        found[0], f"{found[0]}report.json"
    }  # fmt: skip
    tab.page.evaluate("window.react = Plotly.react; Plotly.react = () => { throw new Error('broken'); }; 0")
    made.generation()
    fault = "document.getElementById('status').textContent.includes('cannot draw all that has come: broken; live:')"
    tab.until(fault)
    time.sleep(5)  # two answers in which nothing is new
    assert tab.page.evaluate(fault), "it is forgotten"
    tab.page.evaluate("Plotly.react = window.react; 0")
    made.done()
    tab.until(f"!{fault}")
    command.clean()
    tab.until("document.getElementById('status').textContent.includes('does not answer')")
