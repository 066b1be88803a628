"""The profiles in contrib/ compile. Nothing here can enforce them."""

import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

CONTRIB = Path(__file__).resolve().parents[1] / "contrib"


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


def parse(profile: Path) -> "subprocess.CompletedProcess[str]":
    return run("apparmor_parser", "-Q", "-K", "-d", profile)


@pytest.mark.parametrize("name", ["pasta-py", "passt-py"])
def test_the_apparmor_profiles_parse(name: str) -> None:
    done = parse(CONTRIB / "apparmor" / name)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_the_rules_for_libvirts_profile_parse_in_one(tmp_path: Path) -> None:
    rules = (CONTRIB / "apparmor/local/usr.sbin.libvirtd").read_text()
    whole = tmp_path / "libvirtd"
    whole.write_text(f"abi <abi/3.0>,\ninclude <tunables/global>\nprofile libvirtd /usr/sbin/libvirtd {{\n{rules}}}\n")
    done = parse(whole)
    assert done.returncode == 0, done.stderr


def test_a_broken_apparmor_profile_does_not(tmp_path: Path) -> None:
    text = (CONTRIB / "apparmor/pasta-py").read_text()
    broken = tmp_path / "broken"
    broken.write_text(text.replace("network inet stream", "network inet steam"))
    assert parse(broken).returncode != 0


def module(source: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    return run("checkmodule", "-M", "-m", "-o", folder / "pasta_py.mod", source)


def test_the_selinux_module_compiles(tmp_path: Path) -> None:
    done = module(CONTRIB / "selinux/pasta_py.te", tmp_path)
    assert done.returncode == 0, done.stderr
    packed = tmp_path / "pasta_py.pp"
    done = run("semodule_package", "-o", packed, "-m", tmp_path / "pasta_py.mod", "-f", CONTRIB / "selinux/pasta_py.fc")
    assert done.returncode == 0, done.stderr
    assert packed.stat().st_size > 1000


def test_a_broken_selinux_module_does_not(tmp_path: Path) -> None:
    text = (CONTRIB / "selinux/pasta_py.te").read_text()
    broken = tmp_path / "broken.te"
    broken.write_text(text.replace("allow pasta_py_t nsfs_t", "allow pasta_py_t nowhere_t"))
    assert module(broken, tmp_path).returncode != 0
