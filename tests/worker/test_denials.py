"""What would allow a name of which only a query is known: the port is the one that the rules name, or any."""

from types import SimpleNamespace

import pytest

from pasta_py.worker.denials import name_hint


@pytest.mark.parametrize(
    ("rules", "port"),
    [
        (["allow api.test:8443"], "8443"),
        (["allow api.test:8443/tcp", "allow *.cdn.test:8443"], "8443"),
        (["allow api.test=192.0.2.0/24:8443"], "8443"),
        (["allow api.test=192.0.2.0/24"], "443"),
        (["allow api.test=192.0.2.7"], "443"),
        (["allow host1"], "443"),
        (["allow [2001:db8::a]"], "443"),
        (["allow api.test:80", "allow api.test:8443"], "443"),
        (["allow @lan:22", "deny other.test:22"], "443"),
    ],
)
def test_the_port_of_a_hint(rules: list[str], port: str) -> None:
    texts = tuple(f"--allow\t{rule}\t" for rule in rules)
    assert name_hint(SimpleNamespace(texts=texts), "new.test") == f"--allow new.test:{port}"  # type: ignore[arg-type]
