"""The page holds what the run says as text, whatever that is, and needs nothing from elsewhere."""

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
import yaml

from lfs.report_charts import label
from lfs.report_faces import Faces, HardPair
from lfs.report_page import embedded, page
from lfs.report_run import Run, RunReader
from lfs.report_sections import sections
from lfs.report_series import stored_points
from search_space.config import SpaceConfig
from tests.lfs.report_runs import MadeRun
from trainers.verification.roc_curve import roc_curve

HOSTILE = """</script><img src=x onerror=alert(1)><a href="javascript:alert(2)">&'\x1b[31m\u202e$x$%{y}"""
PICTURE = "data:image/jpeg;base64,AAAA"


def hostile_run(folder: Path) -> Run:
    """A run whose every text is hostile."""
    made = MadeRun(folder / "run", generations=3, population_size=3)
    made.generation()

    def spoil(row: dict[str, Any]) -> None:
        row["trainer"] = row["reason"] = row["loss"] = HOSTILE

    made.generation(spoil)
    made.generation(spoil)
    store = made.store
    store.write_result({"generation": 2, "test": {HOSTILE: 0.5, f"{HOSTILE}/tar@far=0.1": 0.5}, "num_images": 3})
    store.record_event(HOSTILE, host=HOSTILE)
    place = Path(store.path) / "config.yaml"
    values = yaml.safe_load(place.read_text())
    values["config"]["start"] = values["versions"][HOSTILE] = HOSTILE
    place.write_text(yaml.safe_dump(values))
    for folder in (Path(store.path) / "generations").iterdir():
        state = json.loads((folder / "state.json").read_text())
        state["summary"] |= {
            "parameter_names": [HOSTILE],
            "winner_parameters": {HOSTILE: 0.5},
            "policy_mean": [0.1],
            "policy_std": [0.1],
        }
        data = json.dumps(state).encode()
        (folder / "state.json").write_bytes(data)
        prints = json.loads((folder / "COMMIT").read_text())
        prints["state.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "COMMIT").write_text(json.dumps(prints))
    return RunReader(store.uri).read()


def hostile_faces() -> Faces:
    pair = HardPair(place=HOSTILE, same=True, cosine=0.1, keys=(HOSTILE, HOSTILE), pictures=(PICTURE, PICTURE))
    return Faces(curves={HOSTILE: roc_curve([0.1, 0.9, 0.4], [False, True, True])}, hardest=(pair,))


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False


@pytest.mark.parametrize("live", [False, True])
def test_hostile_texts_stay_texts(tmp_path: Path, live: bool) -> None:
    made = sections(hostile_run(tmp_path), hostile_faces())
    text = page(HOSTILE, made, made=HOSTILE, live=live)
    tags = Tags(text)
    assert len(tags.scripts) == 3
    for tag, attributes in tags.tags:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag != "img" or attributes["src"] == PICTURE
        assert tag != "a" or str(attributes["href"]).startswith("#")
    without_scripts = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert "onerror" in without_scripts, "the hostile text is not on the page at all"
    assert "<img src=x" not in text
    assert "\x1b" not in without_scripts
    assert "\u202e" not in without_scripts
    charts = json.loads(tags.scripts[0])
    shown = json.dumps(charts)
    assert "onerror" in shown
    assert "<img" not in shown  # plotly takes texts for a kind of HTML
    assert "<a " not in shown


@pytest.mark.parametrize(("live", "server"), [(False, "'none'"), (True, "'self'")])
def test_the_browser_may_run_these_scripts_and_reach_nothing(tmp_path: Path, live: bool, server: str) -> None:
    made = MadeRun(tmp_path / "run", generations=2).done()
    text = page("t", sections(RunReader(made.uri).read(), "no"), made="now", live=live)
    tags = Tags(text)
    [policy] = [a["content"] for _, a in tags.tags if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(part.strip().split(" ", 1) for part in str(policy).split(";"))
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in tags.scripts[1:]]
    assert rules == {
        "default-src": "'none'", "script-src": " ".join(f"'sha256-{value}'" for value in hashes),
        "style-src": "'unsafe-inline'", "img-src": "data: blob:", "connect-src": server, "base-uri": "'none'",
        "form-action": "'none'",
    }  # fmt: skip
    for tag, attributes in tags.tags:
        for name in ("src", "href", "action"):
            assert str(attributes.get(name, "#")).startswith(("#", "data:")), (tag, attributes)
    assert len(text) < 6 * 2**20


def test_embedded_json_is_the_same_value() -> None:
    value = {"a": [HOSTILE, "\u2028<!--<script>"], "b": 1.5, "c": None}
    text = embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        embedded(float("nan"))


def test_labels_are_short_texts() -> None:
    assert html.unescape(label("<b>&")) == "<b>&"
    assert len(html.unescape(label("x" * 100))) == 60


@pytest.mark.parametrize("space", ["global", "local", "paper_local"])
def test_plotly_knows_every_property_of_every_figure(tmp_path: Path, space: str) -> None:
    made = MadeRun(tmp_path / "run", generations=3, space=SpaceConfig(name=space)).done()
    drawn = [chart for s in sections(RunReader(made.uri).read(), hostile_faces()) for chart in s.charts.values()]
    assert len(drawn) == 7
    for chart in drawn:
        figure = plotly.graph_objects.Figure(chart)  # refuses what it does not know
        axes = [a for name, a in chart["layout"].items() if re.fullmatch(r"[xy]axis\d*", name)]
        assert len(axes) >= 2
        assert all(axis["title"]["text"] for axis in axes)
        assert figure.data


def test_stored_operating_points() -> None:
    metrics = {"tar@far=0.1": 0.7, "tar@far=0.1_se": 0.02, "lfw/all:tar@far=1e-4": 0.3, "auc": 0.9, "tar@far=x": 1.0,
               "tar@far=1e-99999": 0.1, "tar@far=-1": 0.2}  # fmt: skip
    rows = stored_points(metrics)
    assert rows["far"].tolist() == [0.1, 1e-4]
    assert rows["tar"].tolist() == [0.7, 0.3]
    assert rows["set"].tolist() == ["test, listed pairs, at the end", "lfw, all pairs, at the end"]
    assert rows["tar_se"].isna().tolist() == [False, True]
