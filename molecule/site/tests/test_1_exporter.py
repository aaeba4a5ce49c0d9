"""What the machines of a log tell Prometheus, and what it costs."""

from __future__ import annotations

import time

import pytest
from harness import PRIMARY, SECONDARY, Site
from prometheus_client.parser import text_string_to_metric_families
from resources.support import add_leaves, eventually, scrape
from testinfra.host import Host

from sigsum_ops.exporter import table

USAGE = "systemctl show --property=CPUUsageNSec --value sigsum-exporter"
MEMORY = (
    "sed -n 's/^VmRSS:[^0-9]*\\([0-9]*\\) kB/\\1/p'"
    " /proc/$(systemctl show --property=MainPID --value sigsum-exporter)/status"
)
# On the machine itself, and without the time that ssh takes.
SECONDS = """python3 -c '
import time, urllib.request
begin = time.monotonic()
urllib.request.urlopen("http://127.0.0.1:6970/metrics").read()
print(time.monotonic() - begin)'"""


def samples(machine: Host) -> dict[tuple[str, ...], float]:
    """Each sample by its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scrape(machine))
        for sample in family.samples
    }


def test_what_the_machines_tell(site: Site) -> None:
    add_leaves(site.url, 3)

    def published() -> bool:
        primary, secondary = samples(site.machines[PRIMARY]), samples(site.machines[SECONDARY])
        return (
            primary[("sigsum_log_published_size",)] >= 3
            and primary[("sigsum_log_pending_leaves",)] == 0
            and primary[("sigsum_log_tree_size",)] == secondary[("sigsum_log_tree_size",)]
        )

    eventually(published, seconds=30, what="published, replicated and told")
    for name, role in ((PRIMARY, "primary"), (SECONDARY, "secondary")):
        told = samples(site.machines[name])
        played = [key[1] for key, value in told.items() if key[0].endswith("_role") and value]
        assert played == [role]
        assert not [key for key, value in told.items() if key[0].endswith("failed") and value]
        answers = {"sigsum_log_answers", "sigsum_log_consistent"} & {key[0] for key in told}
        assert bool(answers) == (role == "primary")
        assert all(told[(metric,)] == 1 for metric in answers)


@pytest.mark.parametrize("name", [PRIMARY, SECONDARY])
def test_everything_is_in_the_documented_table(site: Site, name: str) -> None:
    known = {metric.name: metric for metric in (*table.OWN, *table.PASSED)}
    for metric, *labels in samples(site.machines[name]):
        assert len(labels) == len(known[metric].labels), metric
    for line in scrape(site.machines[name]).splitlines():
        if line.startswith("# "):
            _, what, metric, text = line.split(" ", 3)
            assert text == (known[metric].text if what == "HELP" else known[metric].kind)


def test_what_it_costs(site: Site) -> None:
    """Under 60 MiB, a scrape under 200 ms, and one in 15 s under a hundredth of a core."""
    machine = site.machines[PRIMARY]
    machine.check_output(SECONDS)
    before, seconds = int(machine.check_output(USAGE)), []
    for _ in range(5):
        time.sleep(1.05)  # an answer is given again for a second
        seconds.append(float(machine.check_output(SECONDS)))
    each = (int(machine.check_output(USAGE)) - before) / 10**9 / len(seconds)
    memory = int(machine.check_output(MEMORY))
    site.report.append(
        f"exporter: {memory} KiB, {min(seconds):.3f} s and {each:.3f} s of a core for a scrape"
    )
    assert memory < 60 * 1024
    assert min(seconds) < 0.2
    assert each / 15 < 0.01
