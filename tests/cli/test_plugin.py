"""Check that third-party packages, installed by pip, work, and the commands for their authors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from click.testing import Result

from adapterzoo.cli import plugin_pool

PACKAGE = Path("tests/support/third_party_package")


def pip_install(package: Path, site: Path) -> None:
    """Install a package into a folder of its own, so that the environment of the tests does not change."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*command, "--target", str(site), str(package)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for PYTHONPATH in which the third-party package is installed."""
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(PACKAGE, source)
    site = tmp_path_factory.mktemp("site")
    pip_install(source, site)
    return site


Process = Callable[..., subprocess.CompletedProcess[str]]


def test_a_third_party_package_is_listed_and_trains(
    site: Path, adapterzoo_process: Process, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    listed = adapterzoo_process("methods", "example", "--json", PYTHONPATH=str(site))
    described = json.loads(listed.stdout)
    assert (described["package"], described["summary"]) == ("adapterzoo-example", "rank 2, and that is all")
    recipe = write_recipe("lora", steps="2")
    done = adapterzoo_process(
        "run", recipe, "-m", "example", "-m", "lora", "--out", tmp_path / "out", PYTHONPATH=str(site)
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "out" / "example" / "seed-0" / "result.json").read_text())
    assert result["status"] == "ok"
    assert result["trainable_params"] > 0


def test_a_third_party_package_is_checked(site: Path) -> None:
    done = forked.run("plugin", "check", "example", "--quantization", "none", "--jobs", "1", PYTHONPATH=str(site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("sound")
    assert "resumes" in done.stdout


def test_third_party_plugins_can_be_switched_off(site: Path, adapterzoo_process: Process) -> None:
    done = adapterzoo_process("methods", "--json", PYTHONPATH=str(site), ADAPTERZOO_NO_THIRD_PARTY="1")
    listed = json.loads(done.stdout)
    assert "example" not in {method["name"] for method in listed["methods"]}
    assert {"lora", "hira"} <= {method["name"] for method in listed["methods"]}
    assert listed["broken"][0]["reason"] == "switched off by ADAPTERZOO_NO_THIRD_PARTY"


def test_the_smallest_method_is_under_thirty_lines() -> None:
    assert len((PACKAGE / "adapterzoo_example.py").read_text().splitlines()) < 30


def test_a_new_package_installs_and_passes_its_tests(adapterzoo_process: Process, tmp_path: Path) -> None:
    created = adapterzoo_process("plugin", "new", "my-method", "--to", tmp_path)
    assert created.returncode == 0, created.stderr
    package = tmp_path / "adapterzoo-my-method"
    assert "pip install --editable" in created.stdout
    pip_install(package, tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    # Its own tests run without quantization only, because the tests of the kit cover the rest.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "none"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_a_new_package_with_a_task_installs_passes_its_test_and_runs(
    adapterzoo_process: Process, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    created = adapterzoo_process("plugin", "new", "my-score", "--task", "--to", tmp_path)
    assert created.returncode == 0, created.stderr
    package = tmp_path / "adapterzoo-my-score"
    assert f"pytest {package}" in created.stdout
    pip_install(package, tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    rows = "text,score\n" + "".join(f"{('good', 'bad')[n % 2]} {n},{n % 2}\n" for n in range(40))
    (tmp_path / "scores.csv").write_text(rows, encoding="utf-8")
    sets = ("task=my-score", "data.source=scores.csv", "data.columns={}", "evaluate={batch_size: 8}")
    settings = [part for assignment in sets for part in ("--set", assignment)]
    arguments = ("run", write_recipe("lora"), "--out", tmp_path / "out", *settings)
    done = forked.run(*arguments, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    shown = adapterzoo_process("compare", tmp_path / "out", "--format", "json", PYTHONPATH=str(tmp_path / "site"))
    rows_by_label = {row["label"]: row for row in json.loads(shown.stdout)["rows"]}
    assert rows_by_label.keys() == {"lora", "head-only"}
    assert rows_by_label["lora"]["metrics"].keys() == {"my_score_error", "test_loss"}
    assert rows_by_label["lora"]["intervals"].keys() >= {"my_score_error"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../evil", "lower-case letters, digits and '-' only"),
        ("[bold]x", "lower-case letters, digits and '-' only"),
        ("lora", "there is already a method of that name, from adapterzoo"),
        ("hira", "there is already a method of that name, from adapterzoo"),
    ],
)
def test_a_wrong_or_taken_name_is_refused(
    name: str, expected: str, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    result = adapterzoo("plugin", "new", name, "--to", tmp_path)
    assert result.exit_code == 2
    assert expected in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_changed(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "adapterzoo-mine").mkdir()
    result = adapterzoo("plugin", "new", "mine", "--to", tmp_path)
    assert result.exit_code == 2
    assert "already exists" in result.stderr


@pytest.mark.parametrize("name", ["none", "3d", "class", "a-2"])
def test_any_name_gives_a_module_that_compiles(name: str, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    assert adapterzoo("plugin", "new", name, "--to", tmp_path).exit_code == 0
    module = tmp_path / f"adapterzoo-{name}" / f"adapterzoo_{name.replace('-', '_')}.py"
    compile(module.read_text(), str(module), "exec")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("lorra",), "Did you mean 'lora'?"),
        ((), "name a method, or give --all"),
        (("xlora",), "it cannot be trained here: it mixes adapters"),
    ],
)
def test_methods_that_cannot_be_checked_are_refused(
    arguments: tuple[str, ...], expected: str, adapterzoo: Callable[..., Result]
) -> None:
    result = adapterzoo("plugin", "check", *arguments)
    assert result.exit_code == 2
    assert expected in result.stderr


def test_an_unsound_method_fails_the_check_with_the_reason(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source)
    module = source / "adapterzoo_example.py"
    broken = (
        "    size_option = 'target_modules'\n    mergeable_into = ('none', 'nf4')\n    task_types = ('CAUSAL_LM',)\n"
    )
    module.write_text(module.read_text().replace("    options = ", broken + "    options = "))
    pip_install(source, tmp_path / "site")
    site, temporary = str(tmp_path / "site"), tmp_path / "temporary"
    temporary.mkdir()
    places = {"PYTHONPATH": site, "TMPDIR": str(temporary)}
    done = forked.run("plugin", "check", "example", "--quantization", "none", "--jobs", "1", **places)
    assert done.returncode == 1
    assert not list(temporary.glob("adapterzoo-*")), "the tiny models are removed"
    assert "NO" in done.stdout
    assert "not sound: example" in done.stdout
    assert "size changes: target_modules does not change" in done.stderr
    assert "adapterzoo_example.py" in done.stderr


def test_a_method_that_kills_the_process_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source)
    module = source / "adapterzoo_example.py"
    text = module.read_text().replace("        from peft import LoraConfig", "        import os; os._exit(0)")
    module.write_text(text.replace("    options = ", "    task_types = ('CAUSAL_LM',)\n    options = "))
    pip_install(source, tmp_path / "site")
    site = str(tmp_path / "site")
    done = forked.run("plugin", "check", "example", "--quantization", "none", "--json", PYTHONPATH=site)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    reports = json.loads(done.stdout)
    assert all("the process died" in report["verdicts"]["wraps"] for report in reports)
    assert {report["look"] for report in reports} == {str(tmp_path / "site" / "adapterzoo_example.py")}


def test_methods_are_tried_on_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container with few cores of a large machine, as many processes as that has cores needed all its memory."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setattr(plugin_pool, "cores", lambda: 1)
    processes = set(plugin_pool.in_pool(_own_process, range(3), _own_process, None))
    assert len(processes) == 1
    assert os.getpid() not in processes


def _own_process(_: int) -> int:
    time.sleep(0.5)
    return os.getpid()
