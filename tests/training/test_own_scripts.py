"""Networks that a script or a notebook defines itself: recorded by what they need of it, rebuilt without running it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from textwrap import dedent

import nbformat
import pytest
import torch
from nbclient import NotebookClient

import manifest
from manifest.errors import ArchitectureError, InputError, NotGrantedError, SourceChangedError, UnknownModelError
from manifest.families.callable.script import Script, read
from manifest.schema.report import Severity, VerificationError
from manifest.storage.transaction import read_manifest
from manifest.training.account import FOLDER, gather
from manifest.training.settings import RecordSettings
from tests.conftest import Answer
from tests.warm import warm_run

SCRIPT = """
    import argparse
    import dataclasses
    from types import SimpleNamespace

    import torch
    from omegaconf import OmegaConf
    from os import system
    from torch import nn

    open("ran", "a").close()  # as a training would leave traces
    WIDTH = 8
    LAYERS = WIDTH // 4

    @dataclasses.dataclass
    class Config:
        width: int = 4
        kinds: tuple = (1, 2)

    class Options:
        def __init__(self):
            self.outputs = 3

    def layer(width):
        return nn.Linear(width, width)  # a comment

    class Net(nn.Module):
        def __init__(self, config, options, parsed, tree, act=nn.GELU):
            super().__init__()
            assert isinstance(config, Config) and isinstance(options, Options)
            model = [layer(config.width) for _ in range(LAYERS)]
            self.body = nn.Sequential(*model, act())
            self.head = nn.Linear(config.width, options.outputs + parsed.more + tree.head.more)

        def forward(self, inputs):
            return self.head(self.body(inputs))

    model = Net(Config(), Options(), argparse.Namespace(more=1), OmegaConf.create({"head": {"more": 2}}))
    if __name__ == "__main__":
        torch.save(model.state_dict(), "net.pt")
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a script has saved its own network, and lies itself."""
    place = tmp_path_factory.mktemp("trained")
    (place / "train.py").write_text(dedent(SCRIPT))
    variables = {**RecordSettings(golden="none", strict=True).variables(), FOLDER: str(place)}
    done = warm_run([place / "train.py"], place, {**os.environ, **variables})
    assert done.returncode == 0, done
    assert gather(place).described == [place / "net.pt"], done
    (place / "ran").unlink()
    return place


def edited(trained: Path, place: Path, old: str, new: str) -> Path:
    """The script after an edit, in another folder."""
    text = (trained / "train.py").read_text()
    assert old in text
    (place / "train.py").write_text(text.replace(old, new))
    return place / "train.py"


def test_network_of_a_script_when_loaded_then_only_what_it_needs_of_the_script_runs(trained):
    loaded = manifest.load(trained / "net.pt", allow=[str(trained / "train.py")])
    stored = torch.load(trained / "net.pt")
    assert all(torch.equal(value, stored[name]) for name, value in loaded.state_dict().items())
    assert type(loaded).__name__ == "Net"
    assert loaded.head.out_features == 6
    assert not (trained / "ran").exists()


def test_network_of_a_script_when_saved_then_what_it_needs_is_on_record(trained):
    record = read_manifest(trained / "net.pt").architecture
    assert (record.name, record.class_name) == ("train.py:Net", "Net")
    text = record.source.text
    for needed in ("class Config", "class Options", "def layer", "LAYERS = WIDTH // 4", "WIDTH = 8", "class Net"):
        assert needed in text
    for other in ('open("ran"', "model = Net", "torch.save", "system", "OmegaConf", "argparse"):
        assert other not in text.replace("import dataclasses", "")
    assert record.config["config"] == {"$object": "Config", "with": {"width": 4, "kinds": {"$tuple": [1, 2]}}}
    assert record.config["parsed"] == {"$namespace": {"more": 1}}
    assert record.config["tree"] == {"$omegaconf": {"head": {"more": 2}}}


def test_verify_when_the_script_was_not_granted_then_says_what_to_pass(trained, run):
    ended: Answer = run("verify", trained / "net.pt")
    assert ended.code == 1
    assert "A005" in ended.out
    assert "(`--allow PATH/train.py`)" in ended.out
    with pytest.raises(VerificationError, match=r"PATH/train\.py"):
        manifest.load(trained / "net.pt")
    assert run("verify", trained / "net.pt", "--allow", trained / "train.py").code == 0


def test_script_when_it_changed_then_is_refused_until_that_is_allowed(trained, tmp_path, run):
    script = edited(trained, tmp_path, "act=nn.GELU", "act=nn.ReLU")
    ended: Answer = run("verify", trained / "net.pt", "--allow", script)
    assert ended.code == 1
    assert "A015" in ended.out
    assert "-    def __init__(self, config, options, parsed, tree, act=nn.GELU):" in ended.out
    assert "+    def __init__(self, config, options, parsed, tree, act=nn.ReLU):" in ended.out
    with pytest.raises(SourceChangedError, match=r"changed:PATH/train\.py"):
        manifest.load(trained / "net.pt", verify="none", allow=[str(script)])
    report = manifest.verify(trained / "net.pt", allow=[f"changed:{script}"])
    assert [(each.rule, each.severity) for each in report.findings() if each.rule == "A015"] == [
        ("A015", Severity.WARNING)
    ]
    assert report.exit_code == 0  # the argument is on record, so that its default does not matter


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.save(", "print(torch); torch.save("),
        ('open("ran", "a").close()', "other = 3"),
        ("class Net(", "# said of the class\n\nclass Net("),
        ("    if __name__", "    SEED = 4\n    if __name__"),
    ],
)
def test_script_when_other_parts_of_it_changed_then_nothing_is_said(old, new, trained, tmp_path):
    script = edited(trained, tmp_path, old.removeprefix("    "), new.removeprefix("    ").replace("\n    ", "\n"))
    report = manifest.verify(trained / "net.pt", allow=[str(script)])
    assert (report.exit_code, "A015" in {each.rule for each in report.findings()}) == (0, False)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("train.py:system", NotGrantedError, "is defined elsewhere"),
        ("train.py:Other", UnknownModelError, "has no 'Other'"),
        ("train.py:WIDTH", NotGrantedError, "is defined elsewhere"),
        ("other.py:Net", NotGrantedError, "PATH/other.py"),
        ("../train.py:Net", InputError, "names no factory"),
        ("__main__:Net", InputError, "in the script that runs"),
    ],
)
def test_name_in_a_script_when_it_is_not_its_own_then_is_refused(name, error, words, trained):
    with pytest.raises(error, match=words):
        manifest.create(trained / "net.pt", name, family="callable") if error is InputError else _rebuilt(trained, name)


def _rebuilt(trained: Path, name: str) -> torch.nn.Module:
    """The model of a manifest that names something else."""
    from manifest.families import family
    from manifest.grants import granted

    architecture = read_manifest(trained / "net.pt").architecture.model_copy(update={"name": name, "source": None})
    with granted([str(trained / "train.py")]):
        return family("callable").build(architecture)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("class Net(:", "is no script of this Python"),
        ("import no_such_module\nclass Net(no_such_module.Net): pass", "ModuleNotFoundError"),
        ("import sys\nvalue = sys.exit(3)\nclass Net:\n    kept = value", "SystemExit"),
    ],
)
def test_script_when_a_class_cannot_be_made_from_it_then_one_sentence_says_why(text, words, tmp_path):
    (tmp_path / "train.py").write_text(text)
    with pytest.raises(UnknownModelError, match=words):
        read(tmp_path / "train.py").find("Net")


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("a = 1\nb = 2\nclass Net: x = a", "a = 1|class Net: x = a"),
        (
            "a = 1\nb = 2\ndef f():\n    b = 3\n    return a + b\nclass Net: x = f()",
            "a = 1|def f():\n    b = 3\n    return a + b|class Net: x = f()",
        ),
        ("a = 1; b = 2\nclass Net: x = b", "b = 2|class Net: x = b"),
        (
            "from __future__ import annotations\nfrom math import *\nclass Net: pass",
            "from __future__ import annotations|from math import *|class Net: pass",
        ),
        ("class Net: old = 1\nclass Net: new = 1", "class Net: new = 1"),
        ("a = 1\na += 2\nclass Net: x = a", "a = 1|a += 2|class Net: x = a"),
        (
            "try:\n    import x\nexcept ImportError:\n    x = None\nclass Net: y = x",
            "try:\n    import x\nexcept ImportError:\n    x = None|class Net: y = x",
        ),
        ("def d(c): return c\n@d\nclass Net: pass", "def d(c): return c|@d\nclass Net: pass"),
        ("import os.path as p, sys\nclass Net: y = p", "import os.path as p, sys|class Net: y = p"),
        ("ä = 1; b = 'é'; c = b\nclass Net: x = c", "b = 'é'|c = b|class Net: x = c"),
        ("class Base: pass\nclass Net(Base): pass\nclass Late: pass", "class Base: pass|class Net(Base): pass"),
        ("if __name__ == '__main__':\n    a = 1\nclass Net: pass", "class Net: pass"),
    ],
)  # fmt: skip
def test_statements_when_a_class_needs_them_then_are_told_from_the_others(text, needed):
    assert Script(Path("train.py"), text).needed("Net") == needed.replace("|", "\n\n") + "\n"


def test_class_of_a_notebook_when_saved_then_is_rebuilt_from_the_notebook(tmp_path):
    cells = [
        "%load_ext manifest\nimport torch\nfrom torch import nn",
        "WIDTH = 4",
        "class Net(nn.Module):\n    def __init__(self, width):\n"
        "        super().__init__()\n        self.first = nn.Linear(width, WIDTH)",
        "!true\nopen('ran', 'a').close()",
        "net = Net(3)\ntorch.save(net.state_dict(), 'net.pt')\n%unload_ext manifest",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    variables = {"MANIFEST_GOLDEN": "none", "PYTHONPATH": os.pathsep.join(sys.path)}
    NotebookClient(book, resources={"metadata": {"path": str(tmp_path)}}, timeout=300).execute(
        env={**os.environ, **variables}
    )
    (tmp_path / "ran").unlink()
    (tmp_path / "analysis.ipynb").write_text(json.dumps(book))
    record = read_manifest(tmp_path / "net.pt").architecture
    assert record.source.text.startswith("from torch import nn\n\nWIDTH = 4\n\nclass Net")
    loaded = manifest.load(tmp_path / "net.pt", allow=[str(tmp_path / "analysis.ipynb")])
    assert loaded.first.in_features == 3
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ArchitectureError, match=r"PATH/notebook\.ipynb"):
        manifest.load(tmp_path / "net.pt", verify="none")


PACKAGE = {
    "__init__.py": "",
    "blocks.py": """
        from torch import nn

        class Block(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.layer = nn.Linear(width, width)

            def forward(self, inputs):
                return self.layer(inputs).relu()
    """,
    "model.py": """
        from torch import nn
        from .blocks import Block

        class Net(nn.Sequential):
            def __init__(self, width, depth=2):
                super().__init__(*(Block(width) for _ in range(depth)))
    """,
    "train.py": """
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        from .model import Net

        def main():
            torch.manual_seed(0)
            model = Net(width=4)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            loader = DataLoader(TensorDataset(torch.randn(12, 4)), 4, shuffle=True, num_workers=2)
            for number, (inputs,) in enumerate(loader):
                model(inputs).sum().backward()
                optimizer.step()
                torch.save(model.state_dict(), f"step_{number}.pt")

        main()
    """,
}


def test_package_with_relative_imports_when_it_saves_beside_workers_then_is_recorded(tmp_path, run):
    lab = tmp_path / "lab"
    lab.mkdir()
    for name, text in PACKAGE.items():
        (lab / name).write_text(dedent(text))
    ended: Answer = run("run", "--golden", "none", "--strict", "--", "python", "-m", "lab.train")
    assert ended.code == 0, ended
    assert ended.err.strip() == "manifest: described step_0.pt, step_1.pt, step_2.pt"
    assert run("verify", "step_2.pt", "--allow", "lab").code == 0
    assert read_manifest(tmp_path / "step_2.pt").architecture.name == "lab.model:Net"
