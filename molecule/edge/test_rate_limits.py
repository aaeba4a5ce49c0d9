"""Submitters are limited by their domain: real tokens, real look-ups, upstream's own tools."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
from door import Door
from resources.names import Names
from resources.procedures import PLAYBOOKS
from resources.support import EPHEMERAL, SSH, Ansible, eventually, exposure, listening
from testinfra.host import Host

TOKENS = "/root/tokens"


@pytest.fixture(scope="session")
def infra1(machines: dict[str, Host]) -> Host:
    """The lab's DNS."""
    return machines["infra1"]


@pytest.fixture(scope="session")
def names(infra1: Host) -> Names:
    """The DNS of the test zones."""
    return Names(infra1)


@pytest.fixture(scope="session")
def key(machines: dict[str, Host]) -> str:
    """A submitter's key for tokens, on the client; returns its hex form."""
    client = machines["client1"]
    client.check_output("mkdir -p %s && cd %s && sigsum-key generate -o token", TOKENS, TOKENS)
    text: str = client.check_output("sigsum-key to-hex -k %s/token.pub", TOKENS)
    return text.strip()


@dataclass
class Submitter:
    """Who submits from the client: upstream's tools make the request and the token."""

    client: Host
    door: Door
    said: str = ""

    def submit(self, leaf: str, domain: str | None = None) -> int:
        """Send a leaf to the log once; returns its HTTP status, ``said`` is the rest."""
        body = self.client.check_output(
            f"cd {TOKENS} && test -e leaf-key || sigsum-key generate -o leaf-key;"
            " printf %%s %s > leaf && sigsum-submit --signing-key=leaf-key -o leaf.req leaf"
            " && cat leaf.req",
            leaf,
        )
        token = {}
        if domain is not None:
            header = self.client.check_output(
                f"cd {TOKENS} && sigsum-ops token %s -k token", domain
            )
            token = dict([header.split(": ", 1)])
        answer = self.door.ask("/add-leaf", method="POST", body=f"{body}\n".encode(), headers=token)
        self.said = answer.text
        return answer.status


@pytest.fixture
def submitter(client1: Host, door: Door, key: str) -> Submitter:
    """A submitter whose tokens are by ``key``."""
    del key  # is on the client now
    return Submitter(client1, door)


TAKEN = {200, 202}


def test_a_leaf_without_a_token_is_refused(submitter: Submitter) -> None:
    assert submitter.submit("no token") == 429


def test_a_token_of_a_domain_whose_record_has_the_key(
    submitter: Submitter, names: Names, key: str
) -> None:
    with names.having(f"_sigsum_v1.one TXT {key}"):
        assert submitter.submit("one", "one.example.org") == 202


def test_what_dns_check_says_is_what_the_log_does(
    submitter: Submitter, log1: Host, names: Names, key: str
) -> None:
    """The command on the log machine asks the log's own resolver."""
    check = "sigsum-ops dns check %s"
    with names.having(f"_sigsum_v1.good TXT {key}", f'_sigsum_v1.bad TXT "{key} {key}"'):
        said = log1.run(check, "good.example.org")
        assert said.rc == 0, said.stdout
        assert "validated by DNSSEC" in said.stdout
        assert "ns.example.org. (of the zone)" in said.stdout
        said = log1.run(check, "bad.example.org")
        assert said.rc == 1
        assert "has several keys" in said.stdout
        assert submitter.submit("two keys in one record", "bad.example.org") not in TAKEN
        assert "syntactically bad keys: 1" in submitter.said
        assert submitter.submit("good", "good.example.org") == 202


def test_the_old_label_still_works_where_there_is_no_new_one(
    submitter: Submitter, log1: Host, names: Names, key: str
) -> None:
    with names.having(f"_sigsum_v0.old TXT {key}", f"_sigsum.older TXT {key}"):
        assert submitter.submit("v0", "old.example.org") == 202
        assert "works still" in log1.run("sigsum-ops dns check old.example.org").stdout
        assert submitter.submit("no version", "older.example.org") not in TAKEN
        assert "where no log looks" in log1.run("sigsum-ops dns check older.example.org").stdout


def test_a_record_that_is_gone_ends_its_tokens(
    submitter: Submitter, names: Names, key: str
) -> None:
    with names.having(f"_sigsum_v1.gone TXT {key}"):
        assert submitter.submit("still there", "gone.example.org") == 202
    eventually(
        lambda: submitter.submit("gone now", "gone.example.org") not in TAKEN,
        seconds=10,
        what="the log refuses the token",
    )


def test_a_domains_limit_is_its_own(submitter: Submitter, names: Names, key: str) -> None:
    """What is listed has its limit; below a public suffix each registered domain counts alone."""
    with (
        names.having(f"_sigsum_v1.a.listed TXT {key}", f"_sigsum_v1.b.listed TXT {key}"),
        names.having(f"_sigsum_v1.www TXT {key}", zone="example.net"),
    ):
        for number in range(3):
            domain = f"{'ab'[number % 2]}.listed.example.org"
            assert submitter.submit(f"listed {number}", domain) == 202, submitter.said
        assert submitter.submit("listed, one too many", "a.listed.example.org") == 429
        for number in range(8):
            assert submitter.submit(f"public {number}", "www.example.net") == 202, submitter.said
        assert submitter.submit("public, one too many", "www.example.net") == 429


def test_smoke_has_a_domain_of_its_own(
    ansible: Ansible, client1: Host, log1: Host, names: Names
) -> None:
    smoke, limits = PLAYBOOKS / "smoke.yml", {"public": 8}
    run = ansible.playbook(
        path=smoke,
        log_server_rate_limit=limits,
        sigsum_tools_token_domain="",
    )
    assert not run.ok
    assert "sigsum_tools_token_domain" in run.text
    (public,) = client1.check_output("sigsum-key to-hex -k /etc/sigsum/token-key.pub").split()
    with names.having(f"_sigsum_v1.smoke TXT {public}"):
        said = log1.run("sigsum-ops dns check smoke.example.org")
        assert said.rc == 0, said.stdout
        run = ansible.playbook(
            path=smoke,
            log_server_rate_limit=limits,
            sigsum_tools_token_domain="smoke.example.org",  # noqa: S106 - a name
        )
        assert run.ok, run.output
    assert client1.file("/etc/sigsum/private/token-key").mode == 0o600
    assert log1.check_output("wc -l < /etc/sigsum/rate-limit") == "4"


def test_a_submitters_key_can_be_let_in_without_a_token(client1: Host) -> None:
    """Upstream's own client and verifier, from the leaf to its proof."""
    for suffix in ("", ".pub"):
        content = (EPHEMERAL / f"free-key{suffix}").read_text()
        client1.check_output(
            f"umask 077; mkdir -p {TOKENS}; printf %%s %s > {TOKENS}/free{suffix}", content
        )
    client1.check_output(
        f"cd {TOKENS} && echo let in > message && sigsum-submit -p /etc/sigsum/policy -k free"
        " --timeout=60s message && sigsum-verify -p /etc/sigsum/policy -k free.pub message.proof"
        " < message"
    )


def test_a_zone_whose_signature_is_wrong_gives_no_key(
    submitter: Submitter, log1: Host, infra1: Host, names: Names, key: str
) -> None:
    with names.having(f"_sigsum_v1.forged TXT {key}", zone="example.net"):
        # As somebody on the way would change it: the record, and not its signature.
        other = "0" if key.startswith("f") else "f"
        infra1.check_output(
            f"sed -i 's/^\\(_sigsum_v1.forged.*TXT.*\"\\)./\\1{other}/'"
            " /var/lib/lab-zones/%s.signed && systemctl reload-or-restart nsd",
            "example.net",
        )
        # nsd reads it in its own time, and the resolver has the old one for as long as it may.
        tries = itertools.count()
        eventually(
            lambda: submitter.submit(f"forged {next(tries)}", "forged.example.net") not in TAKEN,
            seconds=20,
            what="the log refuses the token",
        )
        said = log1.run("sigsum-ops dns check forged.example.net").stdout
        assert "SERVFAIL" in said, said


def test_the_resolver_is_the_machines_own(log1: Host, log2: Host) -> None:
    for machine in (log1, log2):
        asked = machine.file("/etc/resolv.conf").content_string.splitlines()
        assert [line for line in asked if line.startswith("nameserver")] == ["nameserver 127.0.0.1"]
        own = {each for each in listening(machine) if each.endswith(":53")}
        assert own == {"tcp 127.0.0.1:53", "udp 127.0.0.1:53"}
        assert exposure(machine, "unbound.service") <= 2.0


def test_the_resolver_comes_back(log1: Host) -> None:
    log1.check_output("kill -9 $(systemctl show -P MainPID unbound)")
    eventually(
        lambda: log1.run("getent ahosts ns.example.org").rc == 0,
        seconds=10,
        what="the resolver answers",
    )


def test_the_labs_dns_listens_where_it_is_asked(infra1: Host) -> None:
    address = infra1.check_output("hostname -I").split()[0]
    acme = {f"tcp {address}:14000", f"tcp {address}:15000"}
    assert listening(infra1) == SSH | acme | {f"tcp {address}:53", f"udp {address}:53"}
