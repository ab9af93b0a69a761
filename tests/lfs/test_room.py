"""What fits a cluster now and once it has grown, and which resource is named where nothing ever will."""

import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from lfs import room
from lfs.config import CompareConfig, ReliabilityConfig, SearchConfig
from lfs.room import Growth, Room, fit_workers, growth_of_file, is_autoscaled, said
from lfs.train import configured
from search_space.errors import UserError

Nodes = list[dict[str, float]]


def asking(**settings: float) -> SearchConfig:
    return SearchConfig(**{"num_workers": 8, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 2.0}], {}, (0.0, 2)),
        ([{"CPU": 64.0}], {}, (0.0, 8)),
        ([{"CPU": 64.0, "GPU": 4.0}], {}, (1.0, 4)),
        ([{"CPU": 64.0, "GPU": 4.0}], {"gpus_per_worker": 0.5}, (0.5, 8)),
        ([{"CPU": 64.0, "GPU": 4.0}], {"gpus_per_worker": 0}, (0.0, 8)),
        ([{"CPU": 3.0, "GPU": 4.0}], {"cpus_per_worker": 0.1}, (1.0, 4)),
        ([{"CPU": 0.3}], {"cpus_per_worker": 0.1}, (0.0, 3)),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"cpus_per_worker": 2}, (0.0, 2)),  # a trainer does not span nodes
        ([{"CPU": 8.0}, {"CPU": 2.0, "GPU": 2.0}], {}, (1.0, 2)),
    ],
)
def test_trainers_that_fit(nodes: Nodes, settings: dict[str, float], expected: tuple[float, int]) -> None:
    room = fit_workers(asking(**settings), nodes)
    assert (room.gpus, room.now) == expected


@pytest.mark.parametrize(
    ("nodes", "settings", "message"),
    [
        ([{"CPU": 8.0}], {"gpus_per_worker": 0.5}, "a trainer needs 0.5 GPU, the cluster has 0; see --gpus-per-worker"),
        ([{"CPU": 1.0}] * 9, {"cpus_per_worker": 2}, "needs 2 CPU, the largest node has 1; see --cpus-per-worker"),
        (
            [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}],
            {"cpus_per_worker": 4, "gpus_per_worker": 1},
            "needs 4 CPU and 1 GPU on one node, and no node has both",
        ),
    ],
)
def test_a_resource_that_never_comes_is_named(nodes: Nodes, settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_workers(asking(**settings), nodes)
    for growth in (Growth(nodes=({"CPU": 8.0, "GPU": 1.0},)), Growth(unknown=True)):
        assert fit_workers(asking(**settings), nodes, growth).now == 0


def test_a_file_of_ray_up_says_what_may_come() -> None:
    kinds = {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3},
    }
    cluster = {"provider": {"type": "aws"}, "head_node_type": "head", "max_workers": 16, "available_node_types": kinds}
    growth = growth_of_file(cluster, [{"CPU": 4.0}])
    assert growth == Growth(nodes=({"CPU": 8, "GPU": 1},) * 3)
    room = fit_workers(asking(), [{"CPU": 4.0}], growth)
    assert room == Room(gpus=1.0, now=0)
    text = said(asking(), room, [{"CPU": 4.0}], growth)
    assert text == "asked for 8 CPU + 8 GPU; the cluster has 4 CPU on 1 node(s) and can grow to 28 CPU + 3 GPU"
    assert growth_of_file({**cluster, "max_workers": 0}, [{"CPU": 4.0}]) == Growth()
    up = [{"CPU": 4.0}, *[{"CPU": 8.0, "GPU": 1.0, "memory": 1e9}] * 2]
    assert growth_of_file(cluster, up) == Growth(nodes=({"CPU": 8, "GPU": 1},))  # what is there does not come again
    assert growth_of_file({**cluster, "max_workers": 2}, up) == Growth()


def test_workers_of_an_on_premise_file_are_awaited_until_all_are_there() -> None:
    cluster = {
        "provider": {"type": "local", "head_ip": "10.0.0.1", "worker_ips": ["10.0.0.2", "10.0.0.3"]},
        "head_node_type": "local.cluster.node", "max_workers": 2,
        "available_node_types": {"local.cluster.node": {"resources": {}, "max_workers": 2}},
    }  # fmt: skip
    for num_nodes, coming in ((1, True), (2, True), (3, False)):
        assert growth_of_file(cluster, [{"CPU": 4.0}] * num_nodes) == Growth(unknown=coming)


def test_what_fits_agrees_with_packing_by_hand() -> None:
    for cpus, gpus in itertools.product((0.5, 1, 2), (0, 0.5, 1)):
        nodes: Nodes = [{"CPU": 5.0, "GPU": 2.0}, {"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
        packed = 0
        for node in nodes:
            left = {"CPU": 0.0, "GPU": 0.0} | node
            while left["CPU"] >= cpus and left["GPU"] >= gpus:
                left["CPU"] -= cpus
                left["GPU"] -= gpus
                packed += 1
        assert fit_workers(asking(cpus_per_worker=cpus, gpus_per_worker=gpus), nodes).now == min(packed, 8)


def test_names_that_ray_makes_up_are_no_sign_of_an_autoscaler() -> None:
    assert not is_autoscaled(["node_515a2a1b4332960ba849956b8bb41e68a07e6d05152b6b7c9f099c7a", ""])
    assert is_autoscaled(["node_515a2a1b4332960ba849956b8bb41e68a07e6d05152b6b7c9f099c7a", "gpu.spot"])
    assert is_autoscaled(["headgroup"])


RANKS = {"ranks_per_worker": 4, "cpus_per_worker": 8.0, "gpus_per_worker": 4}


@pytest.mark.parametrize(
    ("nodes", "settings", "expected"),
    [
        ([{"CPU": 32.0, "GPU": 8.0}], RANKS, (4.0, 2)),
        ([{"CPU": 32.0, "GPU": 2.0}] * 4, RANKS, (4.0, 2)),
        ([{"CPU": 3.0, "GPU": 8.0}] * 9, RANKS, (4.0, 2)),
        ([{"CPU": 32.0, "GPU": 8.0}], {"ranks_per_worker": 4}, (4.0, 2)),
        ([{"CPU": 32.0, "GPU": 8.0}], {"gpus_per_worker": 4}, (4.0, 2)),
        ([{"CPU": 2.0}] * 3, {"ranks_per_worker": 2, "cpus_per_worker": 2.0}, (0.0, 3)),
    ],
)
def test_trainers_of_several_ranks_that_fit(
    nodes: Nodes, settings: dict[str, float], expected: tuple[float, int]
) -> None:
    room = fit_workers(asking(**settings), nodes)
    assert (room.gpus, room.now) == expected


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([{"CPU": 1.0, "GPU": 4.0}] * 9, "each of a trainer's 4 ranks needs 2 CPU, the largest node has 1"),
        (
            [{"CPU": 64.0, "GPU": 3.0}],
            "ranks needs 2 CPU and 1 GPU, and there is room for 3 of them; see",
        ),
    ],
)
def test_ranks_that_never_fit_are_named(nodes: Nodes, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        fit_workers(asking(**RANKS), nodes)


@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({"gpus_per_worker": 1.5}, "gpus_per_worker must be in [0, 1] or a whole number, got 1.5"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be in [0, 1] or a whole number, got -1"),
        ({"ranks_per_worker": 0}, "ranks_per_worker must be at least 1, got 0"),
        (
            {"gpus_per_worker": 4, "ranks_per_worker": 2},
            "must be 0, or 1 for each of ranks_per_worker (2), got 4",
        ),
        (
            {"gpus_per_worker": 1, "ranks_per_worker": 2},
            "must be 0, or 1 for each of ranks_per_worker (2), got 1",
        ),
        (
            {"gpus_per_worker": 2, "ranks_per_worker": 1},
            "must be 0, or 1 for each of ranks_per_worker (1), got 2",
        ),
        (
            {"gpus_per_worker": 3},
            "batch_size must be divisible by the ranks of a trainer, 3, to 2",
        ),
    ],
)
def test_ranks_and_gpus_must_go_together(settings: dict[str, float], law: str) -> None:
    with pytest.raises(UserError, match=re.escape(law)):
        SearchConfig(**settings)


def test_a_rank_is_a_process_of_its_own_on_each_gpu() -> None:
    ranks = [SearchConfig(gpus_per_worker=gpus).num_ranks for gpus in (None, 0, 0.5, 1, 4)]
    assert ranks == [1, 1, 1, 1, 4]
    assert SearchConfig(ranks_per_worker=2, gpus_per_worker=0).num_ranks == 2


def test_only_a_search_has_trainers_of_several_ranks() -> None:
    for kind in (CompareConfig, ReliabilityConfig):
        with pytest.raises(UserError, match="ranks_per_worker must be 1, and gpus_per_worker 1 at most, for all but"):
            kind(ranks_per_worker=2)
    with pytest.raises(UserError, match="for all but lfs.search, got 2"):
        configured("am", "", {"gpus_per_worker": "2"})


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("max_workers: 1\navailable_node_types: {head: {}, more: {resources: {CPU: 4}, max_workers: 1}}\n"
         "head_node_type: head\n", False),
        ("&a [" + "x, " * 5 + "]\n", True),
        ("a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
            f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
        ) + "max_workers: 0\navailable_node_types: {}\n", True),
    ],
    ids=["good", "no cluster", "stands for too much"],
)  # fmt: skip
def test_the_file_of_a_cluster_is_read_in_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, unknown: bool
) -> None:
    (tmp_path / "cluster.yaml").write_text(text)
    monkeypatch.setattr(room, "BOOTSTRAP", str(tmp_path / "cluster.yaml"))
    monkeypatch.setattr(room, "joins", lambda _: True)
    monkeypatch.setattr(room, "node_types", lambda: ["worker"])
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(gcs_address="127.0.0.1:6379"))
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    found = room.growth_of_cluster(asking(), [{"CPU": 2.0}])
    assert found.unknown == unknown
    assert len(found.nodes) == (0 if unknown else 1)
