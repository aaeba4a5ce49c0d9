"""The log's public door: real certificates by ACME, requests as strangers make them."""

from __future__ import annotations

import http.client
import json
import select
import socket
import ssl
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from door import NAME, Door
from resources.asking import asking
from resources.support import eventually, exposure, listening, main_pid
from resources.tls import weaknesses
from testinfra.host import Host

CERTIFICATE = "/etc/sigsum-proxy/certificate.pem"


LOGS = "/var/log/sigsum-proxy"


def requests(log: Host, text: str) -> int:
    """How many lines of the machine's access log have it."""
    return int(log.run("grep -c %s %s/access.log", text, LOGS).stdout or 0)


def last(log: Host) -> dict[str, Any]:
    """The newest line of the machine's access log."""
    line: dict[str, Any] = json.loads(log.check_output("tail -n 1 %s/access.log", LOGS))
    return line


def test_each_machine_has_a_certificate_of_its_own(doors: dict[str, Door]) -> None:
    """Also the standby, to which the name does not lead: it could take over at once."""
    primary, standby = (door.certificate() for door in doors.values())
    assert primary != standby


def test_the_primary_serves(door: Door) -> None:
    answer = door.ask("/get-tree-head")
    assert answer.status == 200
    assert answer.text.startswith("size=")
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
        assert f"https://{NAME}/" in answer.text
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


def test_a_challenge_that_nobody_knows_is_asked_once(
    doors: dict[str, Door], log1: Host, log2: Host
) -> None:
    """Each machine asks the other, which must not ask back: for ever, it would be."""
    path = f"/.well-known/acme-challenge/unknown-{time.time_ns()}"
    assert {door.plainly(path).status for door in doors.values()} == {404}
    # Who asked the other wrote it; who was asked by a peer did not.
    eventually(
        lambda: [requests(log, path) for log in (log1, log2)] == [1, 1],
        seconds=5,
        what="both have written it",
    )


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
    agent = f"test/{time.time_ns()}"
    token = {"Sigsum-Token": "example.org 00secret00", "User-Agent": agent}
    connection.request("GET", "/get-tree-head", headers=token)
    assert connection.getresponse().status == 200
    connection.close()
    eventually(lambda: last(log1)["agent"] == agent, seconds=5, what="it is written")
    line = last(log1)
    assert (line["uri"], line["status"], line["log_status"]) == ("/get-tree-head", 200, "200")
    assert line["source"].count(".") == 3
    assert log1.run("grep -r secret %s", LOGS).rc == 1
    # Rotated, it writes to a new file, and what is too old goes.
    log1.check_output("touch -d '9 days ago' %s/access.log.9.gz", LOGS)
    log1.check_output("logrotate --force /etc/logrotate.d/sigsum-proxy")
    assert door.status() == 200
    eventually(
        lambda: log1.file(f"{LOGS}/access.log").exists, seconds=5, what="it writes to a new file"
    )
    log1.check_output("systemd-tmpfiles --clean")
    assert not log1.file(f"{LOGS}/access.log.9.gz").exists
    assert log1.file(f"{LOGS}/access.log.1").user == "sigsum-proxy"


def test_what_the_log_never_saw_is_not_written(
    door: Door, standby: Door, log1: Host, log2: Host
) -> None:
    """Nothing limits how often it is asked; its lines would fill the disk."""
    mark = f"/get-inclusion-proof/{time.time_ns()}"
    assert door.plainly(mark).status == 308
    assert door.plainly(mark, host="other.example.org").status == 421
    assert door.ask(mark, method="POST", body=b"x" * 5000).status == 413
    assert standby.ask(mark).status == 503
    assert door.ask(f"{mark}/passed-on").status in {400, 404}
    eventually(lambda: requests(log1, mark) == 1, seconds=5, what="the last is written")
    assert requests(log2, mark) == 0


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


def test_the_proxy_that_restarts_is_away_for_a_moment(door: Door, log1: Host) -> None:
    """As a new nginx, or a changed unit, makes it: what is under way is ended first."""
    with asking(door.status) as seen:
        log1.check_output("systemctl restart nginx")
        eventually(lambda: door.status() == 200, seconds=20, what="it answers")
        time.sleep(0.2)
    assert seen.gap < 5
    print(f"measured: no answer for {seen.gap:.1f} s while the proxy restarts")


def test_slow_clients_do_not_keep_others_out(door: Door, client1: Host) -> None:
    """500 connections that say a byte now and then, from one source; another asks meanwhile."""
    started = [door.connect() for _ in range(50)]
    for connection in started:
        connection.sendall(b"POST /add-leaf HTTP/1.1\r\nHost: ")
    silent = [socket.socket() for _ in range(450)]
    for each in silent:
        each.setblocking(False)
        each.connect_ex((door.address, 443))
    begun = time.monotonic()
    try:
        rate = success(client1, number=100)
        _, let_in, _ = select.select([], silent, [], 0)
        print(f"measured: {len(let_in)} of 450 more connections from the source were let in")
        assert len(let_in) <= 50, "the firewall lets in 100 of one source"
        # Who says nothing is sent away.
        for each in (*started, *let_in):
            each.settimeout(max(15 - (time.monotonic() - begun), 0.1))
            with suppress(ConnectionResetError, ssl.SSLError):
                assert each.recv(1) == b""
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
    assert weaknesses(client1, door.address, NAME) == {}
