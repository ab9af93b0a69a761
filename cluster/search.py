"""What `ray submit` and `ray job submit` start on a cluster: the search, joined to the Ray that is there.

ray submit CLUSTER.yaml cluster/search.py -- --config real_faces --data.root /data --storage s3://bucket/runs
"""

import os
import sys

from lfs.commands import run_command
from lfs.search import main

if __name__ == "__main__":
    os.environ.setdefault("RAY_ADDRESS", "auto")
    sys.exit(run_command(main))
