"""What is in an offline run of Weights & Biases: its file is a LevelDB log of protocol buffers."""

import json
import struct
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def records(path: Path) -> list[bytes]:
    """The records of a log, after the seven bytes that say what it is."""
    data, at, made, part = path.read_bytes(), HEADER, [], b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # the end of a block has no room for a record
            at += BLOCK - at % BLOCK
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + HEADER])
        body = data[at + HEADER : at + HEADER + size]
        part = body if kind in (FULL, FIRST) else part + body
        if kind in (FULL, LAST):
            made.append(part)
        at += HEADER + size
    return made


def offline_run(path: Path) -> dict[str, Any]:
    """Name, group, project, configuration and history of a `.wandb` file."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: dict[str, Any] = {"history": [], "config": {}, "axis": set()}
    for data in records(path):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"name": record.run.display_name, "group": record.run.run_group, "project": record.run.project}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "metric" and record.metric.step_metric:
            found["axis"].add(record.metric.step_metric)
        elif kind == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            found["history"].append({name: json.loads(value) for name, value in items.items()})
    return found
