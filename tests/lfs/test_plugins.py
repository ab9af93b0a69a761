"""Plug-ins by path and by entry point, and what is missing in them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lfs import look, plugins, search, train
from lfs.config import CompareConfig, SearchConfig
from lfs.connect import settings
from lfs.driver import check_losses
from search_space.config import LossConfig, SpaceConfig
from search_space.errors import UserError
from search_space.loss import loss_from_dict
from search_space.margins import grid_of, make_loss
from search_space.spaces import get_space
from tests.lfs.plugin_files import LOSS, SPACE, Write, forget, install
from trainers.backbones import build_backbone
from trainers.metrics import Metric
from trainers.verification import evaluate_metric

# ---- what a plug-in must be


def test_a_path_that_nobody_allowed_is_not_imported(write: Write) -> None:
    mark = write("trap", "open(__file__ + '.mark', 'w')") / "trap.py.mark"
    asked: list[Callable[[], Any]] = [
        lambda: make_loss(LossConfig(name="trap:X"), scale=32.0), lambda: grid_of("trap:X"),
        lambda: get_space(SpaceConfig(name="trap:X")), lambda: build_backbone("trap:X", 8, 32),
        lambda: evaluate_metric("trap:X", [0.1, 0.2], [True, False], [0, 1], 2),
        lambda: loss_from_dict({"loss": "trap:X"}),
    ]  # fmt: skip
    for ask in asked:
        with pytest.raises(UserError, match=r"trap:X is code, .*; if you trust it, add --allow-plugins trap$"):
            ask()
    assert not mark.exists()
    plugins.allow(["trapper", "trap.below"])
    with pytest.raises(UserError, match="add --allow-plugins trap$"):
        get_space(SpaceConfig(name="trap:X"))
    assert not mark.exists()
    plugins.allow(["trap"])
    with pytest.raises(UserError, match="space name trap:X: module trap has no X"):
        get_space(SpaceConfig(name="trap:X"))
    assert mark.exists()


def test_what_is_allowed_is_below_the_module(tmp_path: Path, write: Write) -> None:
    package = write("plain", "") / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").write_text(LOSS)
    plugins.allow(["pack"])
    loss = make_loss(LossConfig(name="pack.part:Mine", parameters={"size": 0.3}), scale=16.0)
    assert loss.to_dict() == {"loss": "pack.part:Mine", "scale": 16.0, "size": 0.3}
    assert loss_from_dict(json.loads(json.dumps(loss.to_dict()))) == loss


IMPORTED = """
import functools
import os
from math import hypot
import numpy as np

bound = [].append
part = functools.partial(np.mean)

def own(scores, same):
    return 1.0
"""


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("os.kill", "posix"), ("os._exit", "posix"), ("hypot", "math"), ("np.mean", "numpy"), ("part", "functools"),
        ("own.__class__", "builtins"), ("os.path.join", "posixpath"), ("bound", ""),
    ],
)  # fmt: skip
def test_what_a_trusted_module_imports_is_no_plug_in(write: Write, name: str, home: str) -> None:
    folder = write("decl", IMPORTED)
    install(folder, "decl", {"lfs.metrics": {"own": "decl:own"}})
    law = f"decl:{name} must be defined in decl or its package, or be declared by an installed package"
    law += f"; it comes from {home}" * bool(home)
    for ask in (
        lambda: build_backbone(f"decl:{name}", 8, 32), lambda: make_loss(LossConfig(name=f"decl:{name}"), scale=1.0),
        lambda: get_space(SpaceConfig(name=f"decl:{name}")), lambda: loss_from_dict({"loss": f"decl:{name}"}),
        lambda: evaluate_metric(f"decl:{name}", [0.1, 0.2], [True, False], [0, 1], 2),
    ):  # fmt: skip
        with pytest.raises(UserError) as caught:
            ask()
        assert str(caught.value).endswith(law)
    assert evaluate_metric("decl:own", [0.1, 0.2], [True, False], [0, 1], 2).value == 1.0


def test_a_plug_in_may_be_of_its_package_or_declared_where_it_is_named(write: Write) -> None:
    folder = write("elsewhere", LOSS)
    package = folder / "pack"
    package.mkdir()
    (package / "core.py").write_text(LOSS + SPACE)
    (package / "__init__.py").write_text("from pack.core import Space\nfrom elsewhere import Mine")
    (package / "side.py").write_text("from pack.core import Space\nfrom elsewhere import Mine\nfrom numpy import vdot")
    plugins.allow(["pack.side"])
    assert get_space(SpaceConfig(name="pack.side:Space")).dim == 1
    install(folder, "pack", {"lfs.spaces": {"mine": "pack:Space"}, "lfs.metrics": {"far": "pack.side:vdot"}})
    forget()
    assert get_space(SpaceConfig(name="mine")).dim == 1
    assert evaluate_metric("far", [0.1, 0.2], [True, False], [0, 1], 2)
    with pytest.raises(UserError, match="backbone pack.side:vdot must be defined in pack.side or its package"):
        build_backbone("pack.side:vdot", 8, 32)  # declared, but as something else
    with pytest.raises(UserError, match="; it comes from elsewhere$"):
        make_loss(LossConfig(name="pack.side:Mine"), scale=1.0)


FAULTS = {
    "Number = 3": ("Number", "must be a subclass of search_space.margin_loss.MarginLoss, got 3"),
    "import nothing_of_the_kind": ("X", "there is no module nothing_of_the_kind here: faulty needs it"),
    "1 / 0": ("X", "cannot be imported: ZeroDivisionError: division by zero; `python -c 'import faulty'` shows where"),
    "def broken(:": ("X", "cannot be imported: SyntaxError: "),
    LOSS: ("Nine", "module faulty has no Nine; did you mean Mine?"),
    LOSS.replace("@dataclass(frozen=True, kw_only=True)", ""): ("Mine", "must have the decorator @dataclass(frozen"),
    LOSS.replace("float = 0.1", "float"): ("Mine", "must have a default for each parameter: .*'size'"),
    LOSS.replace("size: float", "name = 'am'\n    size: float"): (
        "Mine",
        "must go by where it is defined, faulty:Mine",
    ),
    LOSS.replace("target_cosine(self, cosine)", "per_sample(self, cosine, *_)").replace(" - self.size", ".mean()"): (
        "Mine",
        "must give one finite value",
    ),
    LOSS.replace("cosine - self.size", "cosine.sizes"): ("Mine", "must work when it is tried: AttributeError: "),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_loss_that_is_none_is_refused_in_one_line(write: Write, text: str) -> None:
    write("faulty", text)
    plugins.allow(["faulty"])
    name, message = FAULTS[text]
    with pytest.raises(UserError, match=f"^loss name faulty:{name}:? .*") as caught:
        make_loss(LossConfig(name=f"faulty:{name}"), scale=32.0)
    line = str(caught.value)
    assert "\n" not in line
    assert all(part in line for part in message.split(".*"))


def test_a_space_that_is_none_is_refused(write: Write) -> None:
    write("faulty", f"{LOSS}\n{SPACE}\nclass Half(SearchSpace):\n    pass\n\n"
          "class Named(Space):\n    parameter_names = ('size',)\n\n"
          "class Nothing(Space):\n    def loss(self, action):\n        return 1.0\n")  # fmt: skip
    plugins.allow(["faulty"])
    assert get_space(SpaceConfig(name="faulty:Space", parameters={"a": 1.0})).dim == 1
    for name, message in {
        "Mine": "must be a subclass of search_space.spaces.SearchSpace, got <class 'faulty.Mine'>",
        "Half": "must have loss, parameter_names$",
        "Named": r"loss of space faulty:Named must have the parameters \('size',\), got \('scale', 'size'\)",
        "Nothing": "loss of space faulty:Nothing must be a search_space.loss.Loss, got 1.0",
    }.items():
        with pytest.raises(UserError, match=message):
            get_space(SpaceConfig(name=f"faulty:{name}"))
    with pytest.raises(UserError, match="space num_bins does not apply to faulty:Space"):
        get_space(SpaceConfig(name="faulty:Space", num_bins=3))
    with pytest.raises(UserError, match="space parameters does not apply to global"):
        get_space(SpaceConfig(name="global", parameters={"a": 1.0}))


BACKBONE = """
import torch
from torch import nn

def network(*layers):
    return lambda dim, size: nn.Sequential(nn.Flatten(), nn.Linear(3 * size * size, dim), *layers)

class Own(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("table", torch.ones(1), persistent=persistent)

    def forward(self, x):
        return x * self.table

good = network(nn.LayerNorm(8), nn.ReLU())
no_rule = lambda dim, size: network(Own(True))(dim, size)
not_stored = lambda dim, size: network(Own(False))(dim, size)
wide = lambda dim, size: network()(dim + 1, size)
text = lambda dim, size: "no network"
narrow = lambda dim, size: nn.Linear(3, dim)
three = 3
"""


def test_a_backbone_that_is_none_is_refused(write: Write) -> None:
    write("nets", BACKBONE)
    plugins.allow(["nets"])
    for name, message in {
        "no_rule": r"must have reset_parameters\(\) in each layer .* which 2, a Own, lacks",
        "not_stored": r"must have no buffer that is not stored \(persistent=False\), got 2.table",
        "wide": r"must give embeddings \[N, 8\] of 2 pictures, got \[2, 9\]",
        "text": "must make a torch.nn.Module, got 'no network'",
        "narrow": r"must take pictures \[N, 3, 16, 16\]: RuntimeError",
        "three": r"must be a class or function of \(embedding_dim, input_size\), got 3",
    }.items():
        with pytest.raises(UserError, match=f"^backbone nets:{name} {message}") as caught:
            build_backbone(f"nets:{name}", 8, 16)
        assert "\n" not in str(caught.value)


def test_layers_without_a_rule_are_initialised_from_the_seed(write: Write) -> None:
    import torch

    write("nets", "from torch import nn\ndef net(dim, size):\n"
          "    conv = nn.Conv1d(3 * size, dim, size)\n"
          "    return nn.Sequential(nn.Flatten(1, 2), conv, nn.Flatten(), nn.LayerNorm(dim))")  # fmt: skip
    plugins.allow(["nets"])
    torch.manual_seed(1)
    first = build_backbone("nets:net", 8, 16, seed=3).state_dict()
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after), "the global generator moved"
    again, other = (build_backbone("nets:net", 8, 16, seed=seed).state_dict() for seed in (3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])
    assert torch.equal(first["3.weight"], torch.ones(8))
    assert build_backbone("nets:net", 8, 16).training


def test_a_metric_of_ones_own_has_the_bootstrap_of_the_others(write: Write) -> None:
    """AUC, written anew as a plug-in, against the project's."""
    write("own", "import numpy as np\nfrom scipy.stats import rankdata\n"
          "def auc(scores, same):\n    g, i = same.sum(), (~same).sum()\n"
          "    return float((rankdata(scores)[same].sum() - g * (g + 1) / 2) / (g * i))\n"
          "def text(scores, same):\n    return 'high'\nnumber = 3\n"
          "def fails(scores, same):\n    raise KeyError('x')\n")  # fmt: skip
    plugins.allow(["own"])
    rng = np.random.default_rng(0)
    same = rng.random(80) < 0.4
    scores, fold = rng.normal(size=80) + same, np.arange(80) % 10
    ours, theirs = (evaluate_metric(name, scores, same, fold, 25) for name in ("own:auc", "auc"))
    np.testing.assert_allclose(ours.replicates, theirs.replicates)
    assert ours.value == pytest.approx(theirs.value)
    for name, message in {
        "text": "give a finite number, got 'high'", "number": r"be a function of \(scores, same\), got 3",
        "fails": "work when it is tried: KeyError: 'x'",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=f"^metric own:{name} must {message}"):
            evaluate_metric(f"own:{name}", scores, same, fold, 5)
    with pytest.raises(UserError, match="metric of a plug-in is on listed pairs, without `all:` in front"):
        Metric.parse("all:own:auc")


# ---- how they are named


def test_entry_points_are_names_and_are_spelled_out(write: Write, recipe_file: Callable[..., str]) -> None:
    folder = write("pack", LOSS + SPACE + "def gap(scores, same):\n    return 1.0\n")
    points = {
        "lfs.losses": {"mine": "pack:Mine"},
        "lfs.spaces": {"mine": "pack:Space"},
        "lfs.metrics": {"gap": "pack:gap"},
    }
    install(folder, "pack", points)
    flags = {"space.name": "mine", "reward.metric": "gap+auc", "reward.record": "tar@far=1e-2,gap"}
    config = plugins.built(SearchConfig, recipe_file(), flags)
    assert (config.space.name, config.reward.metric) == ("pack:Space", "pack:gap+auc")
    assert config.reward.record == ("tar@far=1e-2", "pack:gap")
    assert plugins.paths(config) == ["pack:Space", "pack:gap"]
    lineage = ({"loss": "pack:Mine"}, {"loss": "am"}, {"loss": "a:B"})
    replayed = SearchConfig(mode="fixed", population_size=1, schedule=lineage)
    assert plugins.packages(replayed) == ["a", "pack"]
    assert list(look.plugins(plugins.packages(config)).items()) == [
        ("plug-in pack", f"1.2 code {look.code(('pack',))}")
    ]
    compared = plugins.built(
        CompareConfig, "", {"losses": "am,mine", "searches": "random:mine", "grid": "mine.size=0.1,0.2"}
    )
    assert compared.losses == ("am", "pack:Mine")
    assert compared.searches == ("random:pack:Space",)
    assert compared.grid == {"pack:Mine.size": (0.1, 0.2)}
    assert plugins.paths(compared) == ["pack:Mine", "pack:Space"]
    with pytest.raises(UserError, match="one of softmax, .*, circle, mine, got 'mime'; did you mean mine?"):
        make_loss(LossConfig(name="mime"), scale=1.0)


def test_a_module_with_entry_points_is_trusted_and_no_other(write: Write) -> None:
    folder = write("pack", LOSS + SPACE)
    write("pack_more", LOSS)
    install(folder, "pack", {"lfs.spaces": {"mine": "pack:Space"}})
    space = get_space(SpaceConfig(name="mine"))
    assert loss_from_dict(space.decode([0.4]).to_dict()) == space.decode([0.4])
    with pytest.raises(UserError, match="--allow-plugins pack_more"):
        loss_from_dict({"loss": "pack_more:Mine"})


def test_two_packages_with_one_name_are_told_apart_by_path(write: Write) -> None:
    folder = write("pack", LOSS)
    for name in ("one", "two"):
        install(folder, name, {"lfs.losses": {"mine": f"{name}:Mine"}})
    with pytest.raises(
        UserError, match="loss name mine is declared by several packages: name one of one:Mine and two:Mine"
    ):
        make_loss(LossConfig(name="mine"), scale=1.0)


@pytest.mark.parametrize("name", ["a:b:c", "a:", ":a", "a b:c", "a-b:c", "os.:x", "x" * 300 + ":y", "../x:y"])
def test_what_is_no_path_is_an_unknown_name(name: str) -> None:
    with pytest.raises(UserError, match="loss name must be one of .*, or MODULE:NAME of a plug-in, got "):
        make_loss(LossConfig(name=name), scale=1.0)


def test_what_flags_and_recipes_name_is_allowed(write: Write, recipe_file: Callable[..., str]) -> None:
    write("mine", LOSS + SPACE)
    config = plugins.built(SearchConfig, recipe_file(space={"name": "mine:Space", "parameters": {"k": 2}}), {})
    assert config.space.parameters == {"k": 2.0}
    check_losses(config)
    assert settings()["runtime_env"] == {"env_vars": {plugins.VARIABLE: "mine"}}


@pytest.mark.parametrize(
    ("flags", "modules"),
    [
        ({"loss.name": "a.b:C"}, "a.b"), ({"reward.metric": "auc+m:x"}, "m"), ({"searches": "search:s:T"}, "s"),
        ({"losses": "am,a:B", "grid": "g:L.scale=1,2"}, "a,g"), ({"data.root": "x:y", "address": "host:1"}, ""),
    ],
)  # fmt: skip
def test_what_flags_say_beside_a_run_is_allowed(write: Write, flags: dict[str, str], modules: str) -> None:
    plugins.allow_said(flags)
    assert os.environ.get(plugins.VARIABLE, "") == modules


def test_a_process_learns_what_it_may_import() -> None:
    code = "import lfs.embed_workers; from search_space import plugins; print(*plugins.allowed())"
    environment = {**os.environ, plugins.VARIABLE: "my_module,other.part,no module,"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["my_module", "other.part"]


def test_a_wrong_flag_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (search, train):
        with pytest.raises(SystemExit) as caught:
            command.main(["--allow-plugins", "../here"])
        assert caught.value.code == 2
        assert "expected names of modules, comma separated, got '../here'" in capsys.readouterr().err
