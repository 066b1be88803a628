"""The profiles in contrib/ compile. Nothing here can enforce them."""

import re
import subprocess
import textwrap
from pathlib import Path

import pytest

pytestmark = [pytest.mark.as_built, pytest.mark.unsanitized]

CONTRIB = Path(__file__).resolve().parents[1] / "contrib"


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)


def parse(profile: Path, *options: object) -> "subprocess.CompletedProcess[str]":
    return run("apparmor_parser", "-Q", "-K", "-d", *options, profile)


def for_this_parser(profile: Path, folder: Path) -> Path:
    """The profile, or for AppArmor 3 what its first line says. `make test-deb` parses it with AppArmor 4 as it is."""
    text = profile.read_text()
    if "version 3" in run("apparmor_parser", "--version").stdout:
        text = text.replace("abi/4.0", "abi/3.0").replace("  userns,\n", "")
    made = folder / profile.name
    made.write_text(text)
    return made


@pytest.mark.parametrize("name", ["pasta-py", "passt-py"])
def test_the_apparmor_profiles_parse(name: str, tmp_path: Path) -> None:
    done = parse(for_this_parser(CONTRIB / "apparmor" / name, tmp_path))
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_the_apparmor_profile_allows_user_namespaces() -> None:
    assert "\n  userns,\n" in (CONTRIB / "apparmor/pasta-py").read_text()


def test_files_of_users_add_other_places_of_the_programs(tmp_path: Path) -> None:
    """Both files as contrib/README.md gives them."""
    blocks = re.findall(r"^  ```text\n(.*?)^  ```$", (CONTRIB / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tunables,) = [block for block in blocks if "@{pasta_py} +=" in block]
    (local,) = [block for block in blocks if "/pipx/" in block and block is not tunables]
    for name, text in (("tunables/pasta-py.d/home", tunables), ("local/pasta-py", local)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    done = parse(for_this_parser(CONTRIB / "apparmor/pasta-py", tmp_path), "-I", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pipx/venvs/pasta-py/bin/{passt,pasta,pasta-py,pesto,slirp4netns}" in done.stdout
    assert "pipx/venvs/pasta-py/lib/**" in done.stdout


def test_the_rules_for_libvirts_profile_parse_in_one(tmp_path: Path) -> None:
    rules = (CONTRIB / "apparmor/local/usr.sbin.libvirtd").read_text()
    whole = tmp_path / "libvirtd"
    whole.write_text(f"abi <abi/3.0>,\ninclude <tunables/global>\nprofile libvirtd /usr/sbin/libvirtd {{\n{rules}}}\n")
    done = parse(whole)
    assert done.returncode == 0, done.stderr


def test_a_broken_apparmor_profile_does_not(tmp_path: Path) -> None:
    broken = for_this_parser(CONTRIB / "apparmor/pasta-py", tmp_path)
    broken.write_text(broken.read_text().replace("network inet stream", "network inet steam"))
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
