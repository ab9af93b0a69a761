"""Check a cluster file before anything is started with it, and start searches that a scheduler may start again.

Examples:
    python -m lfs.cluster check cluster/local.yaml
    python -m lfs.cluster start --storage /shared/runs --name first --num-workers 8 --config builtin
"""

import argparse
import contextlib
import difflib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from lfs.commands import OK, run_command
from lfs.config import MAY_CHANGE_ON_RESUME, SearchConfig
from lfs.options import Parser, Tree, flag, line_of, read_recipe
from lfs.terminal import printable
from lfs.untrusted import MAX_YAML_BYTES
from search_space.errors import UserError, require
from trainers.untrusted import read_file

PLACEHOLDER = re.compile(r"<[A-Z][A-Z0-9_]*>")
MARK = re.compile(r"# EDIT: *(.*)")
CONNECT_S = 5
"""How long the head may take to answer."""


def parser() -> Parser:
    """The command's flags."""
    made = Parser(
        prog="python -m lfs.cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = made.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="say what is left to edit, wrong or out of reach in a file of cluster/")
    check.add_argument("file", metavar="FILE", help="YAML file for `ray up` or KubeRay, or script for sbatch")
    start = actions.add_parser(
        "start",
        add_help=False,
        help="start the search --name in --storage, or go on with it; takes what lfs.search takes",
    )
    start.add_argument("search", nargs=argparse.REMAINDER)
    return made


def check_file(file: str) -> str:
    """What a cluster file describes, in one line, if a cluster can be started with it.

    Raises:
        UserError: placeholders are left in it, it is not valid, a file that it names is missing, or its head cannot be
            logged in to; all lines to edit, or the first other fault.
    """
    path = Path(file)
    try:
        text = read_file(path, MAX_YAML_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read as text: {error}") from None
    refuse_placeholders(file, text)
    if text.startswith("#!"):
        return f"{path.name}: nothing left to edit; start it with sbatch"
    _, values, node = read_recipe(file)
    if "apiVersion" in values:
        return f"{path.name}: {check_kuberay(file, values, node)}"
    config = check_ray(file, values, node)
    check_local_files(file, config, node)
    return f"{path.name}: {describe(config)}; {log_in(file, config, node)}"


def refuse_placeholders(file: str, text: str) -> None:
    """Raise `UserError` with every line that still holds a placeholder, and what belongs there."""
    left = []
    for number, line in enumerate(text.splitlines(), start=1):
        if found := PLACEHOLDER.findall(line):
            mark = MARK.search(line)
            left.append(f"line {number} {' '.join(found)}" + (f" ({mark[1]})" if mark else ""))
    if left:
        raise UserError(f"{file}: still to be edited: {'; '.join(left)}")


def check_kuberay(file: str, values: Tree, node: yaml.Node | None) -> str:
    """What a RayCluster or RayJob asks for. Its fields are checked by Kubernetes itself, when it is applied.

    Raises:
        UserError: it is neither, or has no name or no worker group.
    """
    kind, version = values.get("kind"), values["apiVersion"]
    where = f"{file}, line {line_of(node, ('kind',)) or 1}"
    law = f"{where}: expected apiVersion ray.io/v1 with kind RayCluster or RayJob"
    require(version == "ray.io/v1" and kind in ("RayCluster", "RayJob"), law, f"{version} {kind}")
    try:
        spec = values["spec"] if kind == "RayCluster" else values["spec"]["rayClusterSpec"]
        groups = [f"{g.get('minReplicas', 0)} to {g['maxReplicas']} {g['groupName']}" for g in spec["workerGroupSpecs"]]
        return f"{kind} {values['metadata']['name']}, Ray {spec['rayVersion']}, workers {', '.join(groups)}"
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: expected a {kind} with name, rayVersion and worker groups; {error} is wrong"
        ) from None


def check_ray(file: str, values: Tree, node: yaml.Node | None) -> dict[str, Any]:
    """The file as Ray's cluster launcher completes it.

    Raises:
        UserError: Ray does not accept it; with the line.
    """
    from jsonschema import ValidationError
    from ray.autoscaler._private.providers import _NODE_PROVIDERS
    from ray.autoscaler._private.util import prepare_config, validate_config

    provider = values.get("provider")
    kind = provider.get("type") if isinstance(provider, dict) else None
    where = f"{file}, line {line_of(node, ('provider', 'type')) or 1}"
    known = sorted(name for name, found in _NODE_PROVIDERS.items() if found)
    require(kind in known, f"{where}: provider type must be one of {', '.join(known)}", kind)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            config: dict[str, Any] = prepare_config(values)
            validate_config(config)
    except ValidationError as error:
        keys = tuple(map(str, error.absolute_path))
        line = line_of(node, keys or (unexpected(error.message),))
        raise UserError(f"{file}{f', line {line}' if line else ''}: {advice(error, keys)}") from None
    except (click.ClickException, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not a cluster that Ray can start: {str(error).splitlines()[0]}") from None
    return config


def unexpected(message: str) -> str:
    """The name of the field that a schema does not have, from jsonschema's message."""
    found = re.search(r"\('(.+?)'", message)
    return found[1] if found else ""


def advice(error: Any, keys: tuple[str, ...]) -> str:
    """What the schema found wrong, with the nearest name that it knows."""
    shown = error.message if len(error.message) < 200 else f"{error.message[:200]} ..."
    near = difflib.get_close_matches(unexpected(error.message), error.schema.get("properties", {}), n=1)
    return f"{'.'.join(keys)}: {shown}".lstrip(": ") + (f"; did you mean {near[0]}?" if near else "")


def check_local_files(file: str, config: dict[str, Any], node: yaml.Node | None) -> None:
    """Raise `UserError` for the first file or folder that is to be copied to the nodes, or key, that is not here."""
    named = [(("file_mounts", remote), local) for remote, local in config["file_mounts"].items()]
    if key := config["auth"].get("ssh_private_key"):
        named.append((("auth", "ssh_private_key"), key))
    for keys, local in named:
        if not Path(str(local)).expanduser().exists():
            hint = "; `ray get-auth-token --generate` makes it" if Path(local).name == "auth_token" else ""
            raise UserError(f"{file}, line {line_of(node, keys)}: {local} is not on this machine{hint}")
    for tool in ("ssh", "rsync"):
        require(shutil.which(tool) is not None, f"ray up needs {tool} on this machine", "none")


def describe(config: dict[str, Any]) -> str:
    """Provider, head and workers in a few words."""
    provider, types = config["provider"], config["available_node_types"]
    if provider["type"] == "local":
        num_workers = len(provider.get("worker_ips", ()))
        return f"provider local, head {provider.get('head_ip')}, {num_workers} worker{'s' * (num_workers != 1)}"
    workers = [
        f"{kind.get('min_workers', 0)} to {kind['max_workers']} {name}"
        for name, kind in types.items()
        if name != config["head_node_type"]
    ]
    return f"provider {provider['type']}, {provider.get('region')}, workers {', '.join(workers)}"


def log_in(file: str, config: dict[str, Any], node: yaml.Node | None) -> str:
    """Log in to the head as Ray's cluster launcher does, where there is a head already.

    Raises:
        UserError: the head does not answer within `CONNECT_S`, does not let in, or lacks rsync.
    """
    provider, auth = config["provider"], config["auth"]
    head = provider.get("external_head_ip") or provider.get("head_ip")
    if provider["type"] != "local" or not head:
        return "nothing to log in to before `ray up`"
    user, key = auth.get("ssh_user"), auth.get("ssh_private_key")
    options = {
        "BatchMode": "yes", "ConnectTimeout": CONNECT_S, "IdentitiesOnly": "yes", "LogLevel": "ERROR",
        "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null",
        "ProxyCommand": auth.get("ssh_proxy_command"),
    }  # fmt: skip
    command = ["ssh", *(f"-o{name}={value}" for name, value in options.items() if value)]
    command += ["-i", str(Path(key).expanduser())] if key else []
    done = subprocess.run(
        [*command, f"{user}@{head}", "command -v rsync"], capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode == 0:
        return "ssh works"
    said = done.stderr.strip().splitlines()[-1:] or ["no rsync on it, which ray up needs"]
    if "denied" in said[0]:
        line = line_of(node, ("auth", "ssh_private_key"))
        raise UserError(f"{file}, line {line}: head {head} does not let {user} in with key {key}: {said[0]}")
    line = line_of(node, ("provider", "external_head_ip" if "external_head_ip" in provider else "head_ip"))
    raise UserError(f"{file}, line {line}: head {head} cannot be used: {said[0].removeprefix('ssh: ')}")


def start(argv: Sequence[str]) -> int:
    """`lfs.search`, or `lfs.search --resume` where its run is there: one command for first and further tries."""
    from lfs import search  # with torch, which a check does not need
    from lfs.locations import under
    from lfs.plugins import built
    from lfs.run_store import RunStore

    flags = vars(search.parser().parse_args(argv))
    require(bool(flags.get("name")) and bool(flags.get("storage")), "start needs --name and --storage", list(argv))
    run = under(flags["storage"], flags["name"])
    store = RunStore(run)
    if store.exists("config.yaml"):
        if any(event.get("action") == "extend" for event in store.events()):
            flags.pop("generations", None)  # what was said since is in the run
        settings = {name: text for name, text in flags.items() if name not in ("config", "resume", "detach")}
        built(SearchConfig, flags["config"] or "builtin", settings)  # allows the plug-ins that this command names
        kept = [part for name in MAY_CHANGE_ON_RESUME if name in flags for part in (flag(name), flags[name])]
        return search.main(["--resume", run, *kept])
    return search.main(argv)


def main(argv: Sequence[str]) -> int:
    """Run the command; see the module."""
    if argv[:1] == ["start"]:
        return start(argv[1:])
    print(printable(check_file(parser().parse_args(argv).file)))
    return OK


if __name__ == "__main__":
    sys.exit(run_command(main))
