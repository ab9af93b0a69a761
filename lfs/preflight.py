"""Looks at every node before a search starts: versions, data, storage; what is wrong is one line with the node."""

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from lfs import look
from lfs.config import SearchConfig
from lfs.locations import under
from lfs.plugins import packages
from lfs.room import Resources, fits_on
from lfs.run_store import RunStore
from lfs.view import View
from search_space.errors import UserError
from trainers.config import DataConfig
from trainers.data.builtin import builtin_cache

MARK = ".mark"
"""File of the run directory that every node must be able to read."""
TIMEOUT_S = 120.0


def check_nodes(
    store: RunStore, config: SearchConfig, nodes: Sequence[dict[str, Any]], needs: Resources, view: View
) -> None:
    """Raise `UserError` for the first node that could get a trainer and cannot work on this search.

    A cluster of this machine alone was checked by the driver already.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in nodes if node["NodeID"] != here and fits_on(node["Resources"], needs)]
    if not others:
        return
    mark = secrets.token_hex(16)
    store.write(mark.encode(), MARK)
    paths = [] if builtin_cache(config.data) else data_paths(config.data)  # a trainer makes what is built in
    modules = packages(config)
    expected = look.look(paths, "", modules)
    try:
        for node, found in zip(others, look_at(others, paths, under(store.uri, MARK), modules), strict=True):
            where = f"node {node['NodeManagerAddress']}"
            if isinstance(found, Exception):  # it is going, or so busy that it will not get a trainer soon
                view.warn(f"{where} does not answer and is not checked: {str(found).strip().splitlines()[0]}")
                continue
            refuse_versions(where, found["versions"], expected["versions"])
            refuse_storage(where, store.uri, found["mark"] == mark)
            refuse_data(where, config.data, found["sizes"], expected["sizes"])
    finally:
        store.delete(MARK)


def look_at(nodes: Sequence[dict[str, Any]], paths: list[str], mark: str, modules: list[str]) -> list[Any]:
    """What each node says, or the exception that came of asking."""
    ray.cloudpickle.register_pickle_by_value(look)
    try:
        task = ray.remote(look.look)
        asked = [task.options(**on(node["NodeID"])).remote(paths, mark, modules) for node in nodes]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(look)
    ray.wait(asked, num_returns=len(asked), timeout=TIMEOUT_S)
    return [answer(reference) for reference in asked]


def on(node_id: str) -> dict[str, Any]:
    """Options of a small task that runs on one node, and nowhere else."""
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id, soft=False)}


def answer(reference: Any) -> Any:
    """The answer, or why there is none."""
    try:
        return ray.get(reference, timeout=0)
    except ray.exceptions.RayError as error:
        return error


def refuse_versions(where: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Raise `UserError` for the first version that differs from the driver's."""
    for name, version in expected.items():
        if found.get(name, look.MISSING) != version:
            law = f"every node must have the driver's versions: {where} has {name} {found.get(name, look.MISSING)}"
            raise UserError(f"{law}, the driver {version}; install the same there")


def refuse_storage(where: str, run: str, read: bool) -> None:
    """Raise `UserError` unless a node could read the run directory."""
    law = "storage must be one folder that every node sees (NFS, s3://, gs://)"
    if not read:
        raise UserError(f"{law}, but {where} cannot read {run}; see --storage")


def data_paths(data: DataConfig) -> list[str]:
    """Every file or folder that a trainer reads."""
    sets = (path for of in (data.reward, data.test) for path in (*of.lmdb, *of.pairs, *of.labels))
    return list(dict.fromkeys([*data.train, *data.train_list, *sets]))


def refuse_data(where: str, data: DataConfig, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Raise `UserError` for the first file that a node lacks, or has another version of; LMDBs may differ in size,
    which says nothing of what they hold.
    """
    lmdbs = {*data.train, *data.reward.lmdb, *data.test.lmdb}
    for path, size in expected.items():
        law = f"data must be under the same path on every node: {path}"
        if found[path] < 0:
            raise UserError(f"{law} is not there or cannot be read on {where}")
        if found[path] != size and path not in lmdbs:
            raise UserError(f"{law} has {found[path]:,} bytes on {where} and {size:,} on the driver's")
