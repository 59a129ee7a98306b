"""What users install: the wheel, built, in a virtual environment of its own, and used."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_wheel_is_built_installed_and_used(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"evenpost", "broker", "worker", "client"}
    assert {f"{role}/py.typed" for role in ("evenpost", "broker", "worker", "client")} <= set(names)
    # The dependencies are this environment's: what is tested is that the wheel has all of its own.
    venv.create(tmp_path / "venv", system_site_packages=False, with_pip=False)
    python = tmp_path / "venv/bin/python"
    packages = next((tmp_path / "venv/lib").glob("python*/site-packages"))
    here = next(Path(p) for p in sys.path if p.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"{here}\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--quiet"]
    subprocess.run([*install, "--no-index", str(wheel)], check=True)
    where = "import broker, client, evenpost, worker; print(broker.__file__, client.__file__)"
    found = subprocess.run([python, "-c", where], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.count(str(packages)) == 2
    for name in ("evenpost", "evenpost-broker", "evenpost-worker"):
        script = tmp_path / "venv/bin" / name
        told = subprocess.run([script, "--version"], check=True, capture_output=True, text=True, cwd=tmp_path)
        assert told.stdout.startswith(f"{name} ")
    newsletter = ROOT / "examples/newsletter/campaign.toml"
    dry = [tmp_path / "venv/bin/evenpost", "submit", str(newsletter), "--dry-run"]
    told = subprocess.run(dry, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "5,000" in told.stdout
