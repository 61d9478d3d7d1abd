"""Test how scripts/two_machines.py sets up and cleans up. The training itself needs root; .ci/run does it."""

from pathlib import Path

import pytest
import two_machines


class FakeNetwork:
    """Stands for the program ip: keeps the names of the namespaces, and fails in one call."""

    def __init__(self, failing_call: int) -> None:
        self.namespaces: set[str] = set()
        self._calls_until_failure = failing_call

    def ip(self, *arguments: str) -> str:
        self._calls_until_failure -= 1
        if self._calls_until_failure == 0:
            raise two_machines.SetupError("not permitted")
        if arguments[:2] == ("netns", "add"):
            self.namespaces.add(arguments[2])
        if arguments[:2] == ("netns", "delete"):
            self.namespaces.discard(arguments[2])
        return ""


def test_machines_without_ip_are_reported_in_one_line(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(two_machines.signal, "signal", lambda number, handler: None)
    assert two_machines.main() == two_machines.UNAVAILABLE
    message = "two machines were not simulated: the program ip is missing (install it: apt-get install iproute2)\n"
    assert capsys.readouterr() == (message, "")


@pytest.mark.parametrize("failing_call", range(1, 10))
def test_failed_setup_leaves_nothing_behind(tmp_path, monkeypatch, failing_call):
    """Nine calls create the namespaces and the cable between them."""
    network = FakeNetwork(failing_call)
    monkeypatch.setattr(two_machines, "ip", network.ip)
    monkeypatch.setattr(two_machines, "NETNS_ETC", tmp_path / "etc")
    (tmp_path / "work").mkdir()
    with pytest.raises(two_machines.SetupError), two_machines.connected_machines(tmp_path / "work"):
        pytest.fail("the set-up did not fail")
    assert not network.namespaces
    assert not list((tmp_path / "etc").glob("*"))


def test_failed_check_leaves_nothing_behind(tmp_path, monkeypatch):
    network = FakeNetwork(failing_call=0)
    monkeypatch.setattr(two_machines, "ip", network.ip)
    monkeypatch.setattr(two_machines, "NETNS_ETC", tmp_path / "etc")
    with pytest.raises(two_machines.CheckError), two_machines.connected_machines(tmp_path) as machines:  # noqa: PT012
        assert network.namespaces == {machine.namespace for machine in machines}
        assert len(list(Path(tmp_path / "etc").glob("*/hosts"))) == 2
        raise two_machines.CheckError
    assert not network.namespaces
    assert not list((tmp_path / "etc").glob("*"))
