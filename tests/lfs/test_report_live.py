"""The live page's server: three answers, for this machine alone."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lfs import report, report_live
from lfs.report import Reporter
from lfs.report_live import Live, ReportServer
from lfs.view import View
from search_space.errors import UserError
from tests.lfs.report_runs import MadeRun


@pytest.fixture
def made(tmp_path: Path) -> MadeRun:
    made = MadeRun(tmp_path / "run", generations=4)
    made.generation()
    return made


@pytest.fixture
def server(made: MadeRun, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    monkeypatch.setattr(report_live, "LOOK_S", 0.0)
    reporter = Reporter(made.store.uri, View(), evaluation=False)
    with ReportServer(Live(reporter.sections, "t"), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: ReportServer, path: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body


def test_it_listens_on_loopback_alone(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"
    assert ask(server, "/")[0] == 200
    assert ask(server, "/", host=f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/config.yaml", "/../../etc/passwd", "//etc/passwd", "/report.json/", "/%2e%2e/", "/[", "*", "/index.html"]
)
def test_other_paths_are_not_there(server: ReportServer, path: str) -> None:
    assert ask(server, path) == (404, b"there are / and /report.json\n")


@pytest.mark.parametrize(
    "host", ["evil.org", "evil.org:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.org:{port}", ""]
)
def test_other_names_are_refused(server: ReportServer, host: str) -> None:
    for path in ("/", "/report.json"):
        status, body = ask(server, path, host=host.format(port=server.server_port))
        assert (status, body) == (403, b"this page is for this machine alone\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(server: ReportServer, method: str) -> None:
    assert ask(server, "/report.json", method)[0] == 501


def test_a_page_gets_what_is_new_and_only_that(server: ReportServer, made: MadeRun) -> None:
    first = json.loads(ask(server, "/report.json?after=")[1])
    assert {s["key"] for s in first["sections"]} >= {"summary", "reward", "trainers"}
    same = json.loads(ask(server, f"/report.json?after={first['version']}")[1])
    assert "sections" not in same
    made.generation()
    news = json.loads(ask(server, f"/report.json?after={first['version']}")[1])
    assert news["version"] != first["version"]
    [reward] = [s["charts"]["reward"] for s in news["sections"] if s["key"] == "reward"]
    best = [s["best_reward"] for s in made.store.summaries()]
    assert reward["data"][-1]["y"] == best
    assert len(best) == 2


def test_a_page_of_an_earlier_server_gets_all(server: ReportServer, made: MadeRun) -> None:
    """Its version says nothing about this server's report, whatever both of them have seen."""
    earlier = Live(Reporter(made.store.uri, View(), evaluation=False).sections, "t").changes("")
    now = json.loads(ask(server, f"/report.json?after={earlier['version']}")[1])
    assert now["version"] != earlier["version"]
    assert now["sections"] == json.loads(json.dumps(earlier["sections"]))


def test_a_run_that_goes_away_leaves_what_was_seen(server: ReportServer, made: MadeRun) -> None:
    version = json.loads(ask(server, "/report.json")[1])["version"]
    (Path(made.store.path) / "config.yaml").unlink()
    gone = json.loads(ask(server, f"/report.json?after={version}")[1])
    assert gone["version"] == version
    assert "is no run" in gone["status"]
    assert ask(server, "/")[0] == 200


def test_a_port_in_use_is_one_line(made: MadeRun) -> None:
    reporter = Reporter(made.store.uri, View(), evaluation=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} on 127.0.0.1 cannot be used: .*; choose another --port"):
            ReportServer(Live(reporter.sections, "t"), port)


def test_a_final_model_that_fails_is_said_and_an_older_one_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MadeRun(tmp_path / "run", generations=3).done()
    reporter = Reporter(store.uri, View(), evaluation=True)
    run = reporter.reader.read()

    def fails(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(report, "look_at_faces", fails)
    assert reporter.faces(run) == "no memory"
    newer = replace(run, result={**(run.result or {}), "generation": 9})

    def meanwhile(*_: object) -> str:
        monkeypatch.setattr(report, "look_at_faces", lambda *_: "new")
        assert reporter.faces(run) == "new"
        return "old"

    monkeypatch.setattr(report, "look_at_faces", meanwhile)
    assert reporter.faces(newer) == "new"


def test_a_report_that_cannot_be_made_says_why(server: ReportServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise ZeroDivisionError("nothing there")

    monkeypatch.setattr(server.live, "_make", fails)
    assert json.loads(ask(server, "/report.json?after=x")[1])["status"] == "nothing there"
