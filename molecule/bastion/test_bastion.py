"""litebastion as deployed, with upstream's witnesses behind it."""

from __future__ import annotations

import json
import ssl
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from resources.support import EPHEMERAL, SSH, Ansible, eventually, exposure, listening, main_pid
from testinfra.host import Host

from sigsum_ops.log.keys import PublicKey, load_public_key

UNIT = "litebastion"
UNREACHED = 502
BACKENDS = "/etc/litebastion/backends"


@pytest.fixture(scope="session")
def bastion1(machines: dict[str, Host]) -> Host:
    """The machine bastion1."""
    return machines["bastion1"]


def key(name: str) -> PublicKey:
    """A witness's key."""
    return load_public_key(EPHEMERAL / f"{name}.pub")


def reached(bastion: Host, name: str) -> int:
    """Ask a witness through the bastion; the status of whoever answered.

    The witness knows no such log: 404. Where it is not connected, the bastion says 502 itself.
    """
    address = bastion.check_output("hostname -I").split()[0]
    trusted = ssl.create_default_context(cafile=str(EPHEMERAL / "tls.pem"))
    body = b"old 0\n\nexample.org/nothing\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"
    url = f"https://{address}/{key(name).hash}/add-checkpoint"
    try:
        with urllib.request.urlopen(url, body, timeout=10, context=trusted) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except urllib.error.URLError:  # the bastion itself is away
        status = UNREACHED
    return int(status)


def connected(bastion: Host, name: str) -> None:
    """Wait until a witness is reached."""
    eventually(lambda: reached(bastion, name) != UNREACHED, seconds=90, what=f"{name} is reached")


def more(*names: str) -> list[dict[str, str]]:
    """Further backends, as an inventory has them."""
    return [{"name": name, "key": key(name).ssh} for name in names]


@contextmanager
def asked_all_the_time(bastion: Host, name: str) -> Iterator[Counter[int]]:
    """Have a witness asked through the bastion again and again, and count the answers."""
    seen: Counter[int] = Counter()
    end = threading.Event()

    def ask() -> None:
        while not end.wait(0.02):
            seen[reached(bastion, name)] += 1

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield seen
    finally:
        end.set()
        asking.join()


def test_a_listed_witness_is_reached_and_no_other(bastion1: Host, client1: Host) -> None:
    connected(bastion1, "one")
    assert reached(bastion1, "one") not in {200, UNREACHED}, "no log of that name is known to it"
    assert reached(bastion1, "two") == UNREACHED
    said = bastion1.check_output(f"journalctl -u {UNIT}")
    assert f"backend={key('two').hash}" not in said
    assert listening(client1) == SSH, "a witness behind a bastion listens nowhere"


def test_twenty_reloads_with_one_more_and_one_less_leave_the_others_alone(bastion1: Host) -> None:
    connected(bastion1, "one")
    pid = main_pid(bastion1, UNIT)
    one, two = (key(name).hash for name in ("one", "two"))
    with asked_all_the_time(bastion1, "one") as seen:
        for number in range(20):
            lines = "\\n".join([one, two] if number % 2 == 0 else [one])
            bastion1.check_output(f"printf '{lines}\\n' > {BACKENDS} && systemctl reload {UNIT}")
    assert seen[UNREACHED] == 0, seen
    assert set(seen) == {reached(bastion1, "one")}
    assert sum(seen.values()) > 20
    assert main_pid(bastion1, UNIT) == pid


def test_a_converge_adds_and_removes_a_witness_without_a_restart(
    bastion1: Host, ansible: Ansible
) -> None:
    pid = main_pid(bastion1, UNIT)
    with asked_all_the_time(bastion1, "one") as seen:
        run = ansible.playbook(more_backends=more("two"))
        assert run.ok, run.output
        connected(bastion1, "two")
        assert ansible.playbook().ok
        assert reached(bastion1, "two") == UNREACHED
    assert UNREACHED not in seen
    assert main_pid(bastion1, UNIT) == pid
    assert set(ansible.playbook().changed.values()) == {0}


def test_a_reload_that_an_interrupted_run_did_not_come_to_is_made_up_for(
    bastion1: Host, ansible: Ansible
) -> None:
    bastion1.check_output(f"sleep 1; touch {BACKENDS}")
    run = ansible.playbook()
    assert run.changed["bastion1"] == 1
    assert set(ansible.playbook().changed.values()) == {0}


def test_litebastion_takes_no_comment_in_its_file(bastion1: Host) -> None:
    """Why our file has no heading that says who wrote it."""
    said = bastion1.run(
        "echo '# managed' > /tmp/backends; timeout 5 litebastion -listen localhost:8443"
        " -backends /tmp/backends -tls-cert /etc/litebastion/certificate.pem"
        " -tls-key /etc/litebastion/key.pem"
    )
    assert said.rc == 1
    assert "invalid backend" in said.stderr
    assert "#" not in bastion1.file(BACKENDS).content_string


def test_it_comes_back_and_the_witnesses_with_it(bastion1: Host) -> None:
    pid = main_pid(bastion1, UNIT)
    bastion1.check_output("kill -9 %s", pid)
    eventually(lambda: main_pid(bastion1, UNIT) not in ("0", pid), seconds=10, what="it runs again")
    connected(bastion1, "one")


def test_its_sandbox_its_files_and_where_it_listens(bastion1: Host) -> None:
    assert exposure(bastion1, f"{UNIT}.service") <= 2.0
    assert listening(bastion1) == SSH | {"tcp *:443"}
    private = bastion1.file("/etc/litebastion/key.pem")
    assert (private.user, private.mode) == ("litebastion", 0o400)


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("more_backends", [{"name": "again", "key": "one"}], "a name or a key twice"),
        ("bastion_key_file", "", "Set bastion_certificate_file"),
        ("bastion_acme_host", "bastion.example.org", "Set bastion_certificate_file"),
    ],
)
def test_bad_input_is_refused_before_anything_is_touched(
    ansible: Ansible, setting: str, value: object, says: str
) -> None:
    if isinstance(value, list):
        value = [{**each, "key": key(each["key"]).hex} for each in value]
    run = ansible.playbook("--extra-vars", json.dumps({setting: value}))
    assert not run.ok
    assert not any(run.changed.values())
    assert says in run.text
