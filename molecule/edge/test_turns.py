"""The machines take turns, and certificates change: last, as the others find the first ones."""

from __future__ import annotations

import json
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from door import NAME, Door
from resources.procedures import PLAYBOOKS
from resources.support import Ansible, eventually
from testinfra.host import Host

SITE = PLAYBOOKS / "site.yml"
PROMOTE = PLAYBOOKS / "promote.yml"
ROLES = {"log1": {"log_server_role": "secondary"}, "log2": {"log_server_role": "primary"}}


def test_a_handover_moves_what_the_doors_say(
    ansible: Ansible,
    doors: dict[str, Door],
    log1: Host,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing changes in a proxy: each sees for itself whether the primary runs there."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))  # for the controller
    old, new = doors["log1"], doors["log2"]
    assert (old.status(), new.status()) == (200, 503)
    handover = PLAYBOOKS / "handover.yml"
    run = ansible.playbook("--extra-vars", json.dumps({"target": "log2"}), path=handover)
    assert run.ok, run.output
    # It asked at the public doors, where it has no token.
    assert "it takes none without a token or a listed key" in run.text
    assert not log1.file("/run/sigsum-log-primary").exists
    answer = old.ask("/get-tree-head")
    assert answer.status == 503
    assert f"https://{NAME}/" in answer.text
    assert new.ask("/get-tree-head").text.startswith("size=")
    assert new.ask("/health").status == 200


def test_the_new_primary_limits_who_submits(doors: dict[str, Door], client1: Host) -> None:
    """By the rules that it had as a secondary, which never used them."""
    request = client1.check_output(
        "cd /root && (test -e leaf-key || sigsum-key generate -o leaf-key) && printf turn > leaf"
        " && sigsum-submit --signing-key=leaf-key -o leaf.req leaf && cat leaf.req"
    )
    answer = doors["log2"].ask("/add-leaf", method="POST", body=f"{request}\n".encode())
    assert answer.status == 429, answer.text


@dataclass(frozen=True)
class Own:
    """An operator's own certificate, as the inventory names it, and who trusts it."""

    directory: Path

    def settings(self, days: int = 30) -> dict[str, str]:
        """Issue one; returns the inventory's variables."""
        made = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=x"
            f" -days {days} -addext subjectAltName=DNS:{NAME} -keyout own.key -out own.pem"
        )
        subprocess.run(made.split(), cwd=self.directory, check=True, capture_output=True)
        return {
            "tls_proxy_acme_email": "",
            "tls_proxy_certificate_file": str(self.directory / "own.pem"),
            "tls_proxy_key_file": str(self.directory / "own.key"),
        }

    def shown(self, door: Door) -> bool:
        trust = ssl.create_default_context(cafile=self.directory / "own.pem")
        return Door(door.address, trust).status("/health") != 0


@pytest.fixture
def own(tmp_path: Path) -> Own:
    return Own(tmp_path)


def test_a_certificate_that_cannot_be_right_is_refused_before_anything_is_touched(
    ansible: Ansible, own: Own
) -> None:
    """And a promotion is not: an ended certificate is no reason to be without a primary."""
    ended = own.settings(days=1)
    run = ansible.playbook(hosts=ROLES, path=SITE, **ended)
    assert not run.ok
    assert "tls_proxy_certificate_file is valid from" in run.text, run.output
    assert not any(run.changed.values())
    missing = {**ended, "tls_proxy_key_file": "/nowhere/key.pem"}
    run = ansible.playbook(hosts=ROLES, path=SITE, **missing)
    assert "tls_proxy_key_file is not read" in run.text, run.output
    assert not any(run.changed.values())
    target = json.dumps({"target": "log1"})
    run = ansible.playbook("--check", "--extra-vars", target, path=PROMOTE, hosts=ROLES, **ended)
    assert run.ok, run.output


def test_a_certificate_of_ones_own_and_back(
    ansible: Ansible, own: Own, doors: dict[str, Door], log2: Host
) -> None:
    settings = own.settings()
    run = ansible.playbook(hosts=ROLES, path=SITE, **settings)
    assert run.ok, run.output
    assert "PRIVATE KEY" not in run.output
    for door in doors.values():
        assert own.shown(door)
    assert log2.file("/etc/sigsum-proxy/certificate.pem").mode == 0o640
    # Renewed, the other would come back.
    assert "No certificates found" in log2.check_output("certbot certificates 2>&1")
    second = ansible.playbook(hosts=ROLES, path=SITE, **settings)
    assert not any(second.changed.values()), second.output

    back = ansible.playbook(hosts=ROLES, path=SITE)
    assert back.ok, back.output
    eventually(
        lambda: all(door.status("/health") != 0 for door in doors.values()),
        seconds=10,
        what="ACME's are shown",
    )
    assert not any(own.shown(door) for door in doors.values())
