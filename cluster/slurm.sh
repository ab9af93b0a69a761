#!/bin/bash
# Slurm: Ray across the nodes of one job, and the search on the first of them. Edit the marked lines, then check and submit:
#
#   python -m lfs.cluster check cluster/slurm.sh && sbatch cluster/slurm.sh NAME [SETTINGS OF python -m lfs.search]
#
# NAME is the run's. Submitted again with it, after the time was up or for more, the job goes on with that run.
#
#SBATCH --partition=<PARTITION>  # EDIT: see sinfo
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1  # leave the line out for nodes without
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=lfs-%j.log
# The signal comes that many seconds before the time is up: longer than a generation, so that one can end.

set -euo pipefail
environment="<VENV>"  # EDIT: virtual environment with the project in it, under one path on every node
storage="<STORAGE>"  # EDIT: folder for runs that every node sees
settings=(--config real_faces --data.root "<DATA>")  # EDIT: what to search on, under one path on every node

name=${1:?the name of the run}
settings+=("${@:2}")
# shellcheck source=/dev/null
source "$environment/bin/activate"
num_nodes=$SLURM_JOB_NUM_NODES
num_workers=$((num_nodes * ${SLURM_GPUS_ON_NODE:-$SLURM_CPUS_PER_TASK}))
node_folder=/tmp/lfs-$SLURM_JOB_ID        # on each node, short: sockets go in there, whose paths may have 107 bytes
job_folder=$storage/.job-$SLURM_JOB_ID    # on the shared file system, for the token, which only this user may read

# shellcheck disable=SC2329  # run by the trap
finish() {
  trap - EXIT TERM
  mapfile -t steps < <(jobs -p)
  kill "${steps[@]}" 2>/dev/null || true
  wait  # Slurm ends all that is left of a step
  srun --overlap --nodes="$num_nodes" --ntasks-per-node=1 rm -rf "$node_folder" || true
  rm -rf "$job_folder"
}
trap finish EXIT

mkdir -p "$job_folder"
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$job_folder/token")
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$job_folder/token

# Any ports that are free (0), since another job's Ray may be on the same node; that of Ray's client, which nobody needs
# here, has to be named. Slurm 22.05 and later do not hand the job's CPUs on to its steps, and Ray would count the node's.
step() { exec srun --ntasks-per-node=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit "$@"; }
ray=(ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --temp-dir="$node_folder" --disable-usage-stats
  --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0)

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)  # this script runs on it
free=$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
step --nodes=1 --nodelist="$head" \
  "${ray[@]}" --head --port=0 --include-dashboard=false --ray-client-server-port="$free" &
while [ ! -s "$node_folder/ray_current_cluster" ] && kill -0 "$!"; do sleep 1; done
address=$(cat "$node_folder/ray_current_cluster")
if ((num_nodes > 1)); then
  step --nodes=$((num_nodes - 1)) --exclude="$head" "${ray[@]}" --address="$address" &
fi
python - "$address" "$num_nodes" <<'END'
import sys, time, ray
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
for _ in range(300):
    alive = sum(node["Alive"] for node in ray.nodes())
    if alive >= int(sys.argv[2]):
        sys.exit()
    time.sleep(1)
sys.exit(f"only {alive} of {sys.argv[2]} nodes came up within 300 s")
END

set -m  # a process group of its own, or the interrupt would be ignored
python -m lfs.cluster start --address "$address" --num-workers "$num_workers" --storage "$storage" --name "$name" \
  "${settings[@]}" &
pid=$!
told=
trap 'echo "told to end: after this generation"; told=130; kill -INT "$pid"' TERM
code=0
while kill -0 "$pid" 2>/dev/null; do
  code=0
  wait "$pid" || code=$?
done
if [ "$code" = "$told" ]; then code=0; fi  # it has ended as it was told to
exit "$code"
