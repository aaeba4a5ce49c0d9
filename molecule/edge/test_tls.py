"""The log's public door: real certificates by ACME, requests as strangers make them."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from resources.support import eventually, exposure, listening, main_pid
from testinfra.host import Host

from sigsum_ops.lab.lab import Lab

NAME = "log.example.org"
CERTIFICATE = "/etc/sigsum-proxy/certificate.pem"


@dataclass(frozen=True)
class Door:
    """One machine's proxy, asked for the log's name whatever the DNS says."""

    address: str
    trust: ssl.SSLContext

    def connect(self, name: str = NAME, timeout: float = 10) -> ssl.SSLSocket:
        plain = socket.create_connection((self.address, 443), timeout=timeout)
        return self.trust.wrap_socket(plain, server_hostname=name)

    def ask(
        self, path: str, *, method: str = "GET", body: bytes | None = None, host: str = NAME
    ) -> http.client.HTTPResponse:
        """One request over a connection of its own; the answer's body is read."""
        connection = http.client.HTTPConnection(host)
        connection.sock = self.connect()
        return _answer(connection, method, path, body)

    def status(self, path: str = "/get-tree-head") -> int:
        """The status of the answer; 0 where there is none."""
        try:
            return self.ask(path).status
        except (OSError, http.client.HTTPException):
            return 0

    def plainly(self, path: str, *, port: int = 80, host: str = NAME) -> http.client.HTTPResponse:
        """One request without TLS."""
        connection = http.client.HTTPConnection(host)
        connection.sock = socket.create_connection((self.address, port), timeout=10)
        return _answer(connection, "GET", path, None)

    def certificate(self) -> str:
        """The fingerprint of what it shows, which must be good for the log's name."""
        with self.connect() as connection:
            shown = connection.getpeercert(binary_form=True)
        assert shown
        return ssl.DER_cert_to_PEM_cert(shown)


# ``text`` is an attribute that ``_answer`` adds, of which mypy knows nothing.
def _answer(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
) -> http.client.HTTPResponse:
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        # Read here: once the connection is closed it cannot be.
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


@pytest.fixture(scope="session")
def trust(lab: Lab) -> ssl.SSLContext:
    """The roots of the lab's authority, and no other."""
    infra = lab.hosts()["infra1"]
    root = subprocess.run(
        ["curl", "-sSf", "--cacert", lab.state / "dns/acme.pem", f"https://{infra}:15000/roots/0"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return ssl.create_default_context(cadata=root)


@pytest.fixture(scope="session")
def doors(lab: Lab, trust: ssl.SSLContext) -> dict[str, Door]:
    return {name: Door(lab.hosts()[name], trust) for name in ("log1", "log2")}


@pytest.fixture
def door(doors: dict[str, Door]) -> Door:
    """That of the primary."""
    return doors["log1"]


@pytest.fixture
def standby(doors: dict[str, Door]) -> Door:
    return doors["log2"]


@dataclass
class Asking:
    """Somebody who asks all the time, and what came of it."""

    statuses: list[int] = field(default_factory=list)
    gap: float = 0.0  # the longest time without an answer of 200, in seconds


@contextmanager
def asking(ask: Callable[[], int], pause: float = 0.02) -> Iterator[Asking]:
    """Ask all the time while the block runs."""
    seen, end = Asking(), threading.Event()

    def run() -> None:
        served = time.monotonic()
        while not end.is_set():
            seen.statuses.append(ask())
            now = time.monotonic()
            if seen.statuses[-1] == 200:
                seen.gap, served = max(seen.gap, now - served), now
            end.wait(pause)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join(30)


def test_each_machine_has_a_certificate_of_its_own(doors: dict[str, Door]) -> None:
    """Also the standby, to which the name does not lead: it could take over at once."""
    primary, standby = (door.certificate() for door in doors.values())
    assert primary != standby


def test_the_primary_serves(door: Door) -> None:
    answer = door.ask("/get-tree-head")
    assert answer.status == 200
    assert answer.text.startswith("size=")  # type: ignore[attr-defined]
    assert door.ask("/health").status == 200
    for name, value in (
        ("Strict-Transport-Security", "max-age=31536000"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ):
        assert answer.headers[name] == value
    assert answer.headers["Server"] == "nginx"  # and no version
    assert "Retry-After" not in answer.headers


def test_the_log_itself_refuses_what_it_knows(door: Door) -> None:
    assert door.ask("/get-inclusion-proof/1/ab").status == 400
    assert door.ask("/nothing").status == 404


def test_the_standby_says_where_to_go(standby: Door) -> None:
    for path, method in (("/get-tree-head", "GET"), ("/add-leaf", "POST"), ("/health", "GET")):
        answer = standby.ask(path, method=method)
        assert answer.status == 503
        assert f"https://{NAME}/" in answer.text  # type: ignore[attr-defined]
        assert int(answer.headers["Retry-After"]) > 0


def test_it_speaks_http_2(door: Door) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    plain = socket.create_connection((door.address, 443), timeout=10)
    with context.wrap_socket(plain, server_hostname=NAME) as connection:
        assert connection.selected_alpn_protocol() == "h2"
        assert connection.version() == "TLSv1.3"


def test_another_name_is_refused(door: Door) -> None:
    assert door.ask("/get-tree-head", host="other.example.org").status == 421
    assert door.plainly("/", host="other.example.org").status == 421
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        door.connect("other.example.org")


def test_http_without_tls_gets_no_leaf_in(door: Door) -> None:
    answer = door.plainly("/get-tree-head")
    assert (answer.status, answer.headers["Location"]) == (308, f"https://{NAME}/get-tree-head")
    assert door.plainly("/get-tree-head", port=443).status == 400


def test_a_body_that_is_no_leaf_is_refused(door: Door) -> None:
    assert door.ask("/add-leaf", method="POST", body=b"x" * 5000).status == 413
    assert door.status() == 200


def test_a_challenge_that_nobody_knows_is_asked_once(doors: dict[str, Door]) -> None:
    """Each machine asks the other, which must not ask back."""
    for door in doors.values():
        assert door.plainly("/.well-known/acme-challenge/unknown").status == 404


def test_it_runs_as_little(log1: Host) -> None:
    assert exposure(log1, "nginx.service") <= 2.0
    assert log1.check_output("ps -o user= -C nginx | sort -u") == "sigsum-proxy"
    assert log1.file(CERTIFICATE).mode == 0o640
    for port in ("80", "443"):
        assert {f"tcp 0.0.0.0:{port}", f"tcp [::]:{port}"} <= listening(log1)


def test_it_comes_back(door: Door, log1: Host) -> None:
    log1.check_output("kill -9 %s", main_pid(log1, "nginx"))
    eventually(lambda: door.status() == 200, seconds=10, what="it serves")


def test_requests_are_written_without_tokens(door: Door, log1: Host) -> None:
    connection = http.client.HTTPConnection(NAME)
    connection.sock = door.connect()
    connection.request("GET", "/get-tree-head", headers={"Sigsum-Token": "example.org 00secret00"})
    assert connection.getresponse().status == 200
    connection.close()
    logs = "/var/log/sigsum-proxy"
    last = json.loads(log1.check_output("tail -n 1 %s/access.log", logs))
    assert (last["uri"], last["status"], last["log_status"]) == ("/get-tree-head", 200, "200")
    assert last["source"].count(".") == 3
    assert log1.run("grep -r secret %s", logs).rc == 1
    # Rotated, it writes to a new file, and what is too old goes.
    log1.check_output("touch -d '9 days ago' %s/access.log.2.gz", logs)
    log1.check_output("logrotate --force /etc/logrotate.d/sigsum-proxy")
    assert door.status() == 200
    eventually(
        lambda: log1.file(f"{logs}/access.log").exists, seconds=5, what="it writes to a new file"
    )
    assert "9 days" not in log1.check_output("find %s -mtime +7 -printf '9 days'", logs)


def test_reloads_and_renewals_break_off_no_request(door: Door, log1: Host) -> None:
    before, pid = door.certificate(), main_pid(log1, "nginx")
    with asking(door.status) as seen:
        for _ in range(20):
            log1.check_output("systemctl reload nginx")
        log1.check_output("systemctl start certbot.service")  # nothing is due
        assert door.certificate() == before
        log1.check_output(
            "REQUESTS_CA_BUNDLE=/etc/sigsum-proxy/acme-root.pem certbot -q renew --force-renewal"
            " --no-random-sleep-on-renew"
        )
        eventually(lambda: door.certificate() != before, seconds=10, what="it is taken in")
    assert set(seen.statuses) == {200}, Counter(seen.statuses)
    assert len(seen.statuses) > 50
    assert main_pid(log1, "nginx") == pid


def test_a_bad_configuration_is_not_taken_in(door: Door, log1: Host) -> None:
    configuration = "/etc/sigsum-proxy/nginx.conf"
    log1.check_output("cp -a %s /root; echo nonsense >> %s", configuration, configuration)
    try:
        assert log1.run("systemctl reload nginx").rc != 0
        assert door.status() == 200
    finally:
        log1.check_output("mv /root/nginx.conf %s; systemctl reload nginx", configuration)


def test_a_log_that_restarts_is_away_for_seconds(door: Door, log1: Host) -> None:
    """log-go reads its configuration at its start only: this is the gap that a change makes."""
    with asking(door.status) as seen:
        log1.check_output("systemctl restart sigsum-log-primary")
        eventually(lambda: door.status() == 200, seconds=20, what="the log answers")
    assert set(seen.statuses) <= {200, 503}, Counter(seen.statuses)
    assert seen.gap < 10
    print(f"measured: no answer but 503 for {seen.gap:.1f} s while the log restarts")


def test_slow_clients_do_not_keep_others_out(door: Door, client1: Host) -> None:
    """500 connections that say a byte now and then, from one source; another asks meanwhile."""
    silent = [socket.create_connection((door.address, 443), timeout=20) for _ in range(250)]
    started = [door.connect() for _ in range(250)]
    for connection in started:
        connection.sendall(b"POST /add-leaf HTTP/1.1\r\nHost: ")
    try:
        rate = success(client1, number=100)
    finally:
        for each in (*silent, *started):
            each.close()
    assert rate > 0.99


def test_an_overload_from_one_source_leaves_others_their_share(door: Door, client1: Host) -> None:
    """Ten times what one source may ask, from the controller; the client asks at its rate."""
    end, statuses = threading.Event(), Counter[int]()

    def overload() -> None:
        while not end.is_set():
            statuses[door.status()] += 1

    threads = [threading.Thread(target=overload) for _ in range(8)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    try:
        # First what one source may ask at once.
        eventually(lambda: statuses[429] > 0, seconds=60, what="it is too much")
        rate = success(client1, number=100)
    finally:
        end.set()
        for thread in threads:
            thread.join(30)
    seconds = time.monotonic() - start
    print(f"measured: {sum(statuses.values()) / seconds:.0f} requests/s, {dict(statuses)}")
    assert rate > 0.99
    assert statuses[200] < 50 * (seconds + 5)


# Prints how many of so many requests were answered 200, and the median time of an answer in ms.
_ASK = r"""
import statistics, sys, time, urllib.request
good, times = 0, []
for _ in range(int(sys.argv[1])):
    start = time.monotonic()
    try:
        with urllib.request.urlopen(sys.argv[2], timeout=10) as answer:
            good += answer.status == 200
    except OSError as error:
        print(error, file=sys.stderr)
    times.append(1000 * (time.monotonic() - start))
    time.sleep(0.05)
print(good, statistics.median(times))
"""


def success(client: Host, number: int) -> float:
    """The share of requests from another machine that are answered."""
    said = client.check_output(
        "python3 -c %s %s %s", _ASK, str(number), f"https://{NAME}/get-tree-head"
    )
    good, median = said.split()
    print(f"measured: {good} of {number} answered 200, median {float(median):.0f} ms")
    return int(good) / number


def test_no_weak_setting(client1: Host, door: Door) -> None:
    """By somebody else's judge of TLS."""
    client1.check_output(
        "command -v testssl || apt-get install --yes --no-install-recommends testssl.sh bind9-host"
    )
    # Its exit status is the number of its findings, of whatever weight.
    client1.run(
        "cd /root && rm -f tls.json && testssl --quiet --color 0 --warnings batch --nodns min"
        " --ip %s"
        " --protocols --server-preference --fs --server-defaults --headers --vulnerable"
        " --jsonfile tls.json %s",
        door.address,
        NAME,
    )
    findings = json.loads(client1.file("/root/tls.json").content_string)
    assert len(findings) > 50
    weak = {
        each["id"]: each["finding"]
        for each in findings
        if each["severity"] in {"MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL"}
    }
    # The lab's authority is nobody's, has no list of what it has taken back, and gives five years.
    for known in ("cert_chain_of_trust", "cert_revocation", "cert_extlifeSpan", "DNS_CAArecord"):
        weak.pop(known, None)
    # What the judge itself cannot do here.
    for own in ("engine_problem", "sessionresumption_ticket"):
        weak.pop(own, None)
    assert weak == {}
