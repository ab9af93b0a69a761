"""TensorBoard's own view of a folder: scalars, and the table of its HParams page."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tensorboard import context
from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each scalar of one run, in the order of writing."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def hparam_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Rows of the HParams page by the run that each stands for: hyperparameters and the last values of metrics."""
    runs = plugin_event_multiplexer.EventMultiplexer()
    runs.AddRunsFromDirectory(str(folder))
    runs.Reload()
    provider = data_provider.MultiplexerDataProvider(runs, str(folder))
    flags = SimpleNamespace(generic_data="true")
    page = backend_context.Context(base_plugin.TBContext(data_provider=provider, logdir=str(folder), flags=flags))
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=1000,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING],
    )  # fmt: skip
    handler = list_session_groups.Handler(context.RequestContext(), page, "", request)
    rows = {}
    for group in handler.run().session_groups:
        for session in group.sessions:
            metrics = {value.name.tag: value.value for value in session.metric_values}
            settings = {name: _plain(value) for name, value in group.hparams.items()}
            rows[session.name] = {"hparams": settings, "metrics": metrics}
    return rows


def _plain(value: Any) -> Any:
    return getattr(value, value.WhichOneof("kind"))
