"""Ray, joined or started: its address, its token, and its console noise kept away from the user."""

import atexit
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from lfs.config import SearchConfig
from lfs.plugins import VARIABLE
from lfs.view import View
from search_space.errors import UserError

NAMESPACE = "lfs"
"""Where the controllers of all searches of a cluster have their names."""
CONNECT_S = 5.0


@contextlib.contextmanager
def ray_cluster(config: SearchConfig) -> Iterator[None]:
    """Ray, joined or started; what this started ends with the block. Its console noise goes to its own logs."""
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # All trainers are asked for at once, which is also what an autoscaler sees; by itself Tune asks for one by one.
    os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "1000")
    address = joins(config)
    with joined(address) if address else started(dashboard=config.dashboard):
        log_errors_of_nodes()
        try:
            yield
        finally:
            leave_colours_alone()


@contextlib.contextmanager
def waited_for_ray(config: SearchConfig, view: View) -> Iterator[None]:
    """`ray_cluster`, and a word if it takes its time."""
    address = joins(config)
    with contextlib.ExitStack() as stack:
        with view.waiting(f"joining Ray at {address}" if address else "starting Ray"):
            stack.enter_context(ray_cluster(config))
        yield


def settings() -> dict[str, Any]:
    """Of `ray.init`: quiet, and its processes may import the plug-ins that this one may."""
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "namespace": NAMESPACE}
    told = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    return quiet | ({"runtime_env": {"env_vars": told}} if told else {})


@contextlib.contextmanager
def started(*, dashboard: bool) -> Iterator[None]:
    """A cluster of this machine alone, all of whose ports are on loopback, which ends with the block.

    Others on this machine need its token, whatever RAY_AUTH_MODE says: Ray by itself turns that on where it is not set.

    Raises:
        UserError: Ray does not start.
    """
    os.environ.pop("RAY_AUTH_MODE", None)
    with loopback():
        import ray

        # "local", since without an address Ray would join whatever cluster was last started on this machine.
        with cannot_be_reached("this machine", "see ~/.ray"):
            ray.init("local", include_dashboard=dashboard, dashboard_host="127.0.0.1", **settings())
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """A running cluster, left running at the end of the block.

    Raises:
        UserError: it does not answer, or does not accept this process.
    """
    prepare_to_join(address)
    with loopback() if is_on_loopback(address) else contextlib.nullcontext():
        import ray

        hint = "is it running, and is its token in ~/.ray/auth_token or RAY_AUTH_TOKEN?"
        with cannot_be_reached(address, hint), silent_stderr():  # Ray's C++ side repeats there what the exception says
            ray.init(address=address, **settings())
        try:
            yield
        finally:
            ray.shutdown()


LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""The one setting of Ray that lets a node's address be loopback: "0" on any system. Else Ray takes the address that
other hosts know, whatever address it is told, and listens on all of them."""


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Ray's processes, this one among them, go by loopback in this block."""
    from ray._private import ray_constants

    before, enabled = os.environ.get(LOOPBACK), ray_constants.ENABLE_RAY_CLUSTER
    os.environ[LOOPBACK], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        if before is None:
            del os.environ[LOOPBACK]
        else:
            os.environ[LOOPBACK] = before


def is_on_loopback(address: str) -> bool:
    """Whether the cluster at an address listens on loopback alone, as those do that this project starts."""
    host, _, port = address.rpartition(":")
    if host != "127.0.0.1":
        return False
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # macOS, where Ray's nodes go by loopback anyway
        return False
    at = {c.laddr[0] for c in sockets if c.status == psutil.CONN_LISTEN and c.laddr and str(c.laddr[1]) == port}
    return bool(at) and at <= {"127.0.0.1", "::ffff:127.0.0.1"}


@contextlib.contextmanager
def cannot_be_reached(where: str, hint: str) -> Iterator[None]:
    """Ray's complaints in one line."""
    import ray

    try:
        yield
    except Exception as error:
        known = (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError)
        if not isinstance(error, known) and type(error) is not Exception:  # which says that Ray did not start in time
            raise
        line = str(error).strip().split("\n")[0]
        raise UserError(f"Ray at {where} cannot be reached: {line}; {hint}") from None


def log_errors_of_nodes() -> None:
    """Log what Ray says of its nodes (one died, and its stack), which it prints whatever `log_to_driver` says."""
    from ray._private import worker  # there is no setting for it

    log = logging.getLogger("ray.nodes")
    worker.print_worker_logs = lambda data, *_, **__: log.warning("%s", "\n".join(data["lines"]))


def leave_colours_alone() -> None:
    """What Ray imports would end the process with a control code, on a dumb terminal too."""
    if colorama := sys.modules.get("colorama.initialise"):
        atexit.unregister(colorama.reset_all)


def joins(config: SearchConfig) -> str:
    """Address of the cluster to join; empty: the search starts one of its own."""
    return config.address or os.environ.get("RAY_ADDRESS", "")


def prepare_to_join(address: str) -> None:
    """Fail fast where nobody listens, and send the cluster's token: a joining process does so only when told to."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "://" not in address:
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        except OSError as error:
            raise UserError(f"no Ray cluster answers at {address}: {error}; see --address") from None
    token_file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if "RAY_AUTH_TOKEN" in os.environ or token_file.exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Send file descriptor 2 nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
