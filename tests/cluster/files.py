"""The files of cluster/ with their marked lines filled in."""

import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("local.yaml", "aws.yaml", "gcp.yaml", "kuberay-cluster.yaml", "kuberay-job.yaml", "slurm.sh")
PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]*>")


def filled(name: str, values: Mapping[str, str] | None = None) -> str:
    """Text of a file with its placeholders replaced: `HEAD_IP` by `values["HEAD_IP"]`, others by some word."""
    text = (ROOT / "cluster" / name).read_text(encoding="utf-8")
    return PLACEHOLDER.sub(lambda found: (values or {}).get(found[0][1:-1], found[0][1:-1].lower()), text)
