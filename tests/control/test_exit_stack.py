"""The stack of things to be undone, and ipaddress without functools."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from pasta_py.control.exit_stack import ExitStack

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESSES = ["192.0.2.1", "10.0.0.1", "::1", "fe80::1", "255.255.255.255"]
NETWORKS = ["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::/0", "169.254.0.0/16"]
# What each address and network says of itself and of the others, as a dictionary.
ASK = f"""
import pickle, sys
def what(function):
    try:
        return function()
    except TypeError:
        return "TypeError"
def said(ip):
    objects = [ip.ip_address(each) for each in {ADDRESSES!r}] + [ip.ip_network(each) for each in {NETWORKS!r}]
    objects += [ip.ip_interface("192.0.2.1/24"), ip.ip_interface("2001:db8::1/64")]
    names = [name for name in dir(ip.IPv6Network) + dir(ip.IPv4Interface) if name[0] != "_" and name != "hosts"]
    found = {{(str(each), name): str(getattr(each, name)) for each in objects for name in names
              if hasattr(each, name) and not callable(getattr(each, name))}}
    for one in objects:
        for other in objects:
            found[str(one), str(other)] = [what(lambda: one < other), what(lambda: one <= other), what(lambda: one > other),
                what(lambda: one >= other), one == other, hash(one) == hash(other)]
    return found
"""


def test_everything_is_called_back_last_first_whatever_is_raised() -> None:
    called: list[int] = []

    def fail(number: int) -> None:
        called.append(number)
        raise ValueError(str(number))

    with pytest.raises(ValueError, match="1") as raised, ExitStack() as stack:
        stack.callback(called.append, 0)
        stack.callback(fail, 1)
        stack.callback(called.append, 2)
        stack.callback(fail, 3)
        raise KeyError
    assert called == [3, 2, 1, 0]
    assert str(getattr(raised.value.__context__, "args", None)) == "('3',)"


def test_what_is_given_away_is_not_undone() -> None:
    called: list[int] = []
    with ExitStack() as stack:
        stack.callback(called.append, 0)
        stack.pop_all()
        stack.callback(called.append, 1)
    assert called == [1]


def _said(code: str) -> tuple[dict[tuple[str, str], object], list[str]]:
    done = subprocess.run([sys.executable, "-IS", "-c", ASK + code, *sys.path], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: tuple[dict[tuple[str, str], object], list[str]] = pickle.loads(done.stdout)
    return found


def test_addresses_without_functools_are_those_of_the_standard_library() -> None:
    end = "; loaded = sorted(sys.modules); sys.stdout.buffer.write(pickle.dumps((said(ip), loaded)))"
    theirs, _ = _said("import ipaddress as ip" + end)
    ours, _ = _said(
        "sys.path += sys.argv[1:]; kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name == 'functools'};"
        "from pasta_py.control import ip; assert 'functools' not in sys.modules; import ipaddress, functools;"
        "assert not hasattr(ipaddress.functools, 'reduce') and functools.reduce" + end
    )
    assert ours == theirs
    assert len(ours) > 300


@pytest.mark.parametrize("decorator", ["lru_cache", "lru_cache(maxsize=None)", "partial"])
def test_an_ipaddress_that_asks_for_more_gets_the_real_functools(decorator: str, tmp_path: Path) -> None:
    names = "IPv4Address IPv4Interface IPv4Network IPv6Address IPv6Interface IPv6Network ip_address ip_interface ip_network"
    asks = f"import functools\nif not hasattr(functools, 'reduce'):\n    functools.{decorator}(len)\n"
    (tmp_path / "ipaddress.py").write_text(asks + "=".join(names.split()) + " = functools.reduce\n")
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}];"
        "from pasta_py.control import ip; import functools; assert ip.ip_address is functools.reduce"
    )
    subprocess.run([sys.executable, "-S", "-c", code], check=True)
