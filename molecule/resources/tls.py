"""What somebody else's judge thinks of an endpoint's TLS."""

from __future__ import annotations

import json

from testinfra.host import Host

# The lab's authority is nobody's, has no list of what it has taken back, and gives five years.
_LABS = ("cert_chain_of_trust", "cert_revocation", "cert_extlifeSpan", "DNS_CAArecord")
# What the judge itself cannot do here.
_JUDGES = ("engine_problem", "sessionresumption_ticket")


def weaknesses(client: Host, address: str, name: str) -> dict[str, str]:
    """What testssl finds at an address for a name, by the name of its finding, from MEDIUM on."""
    client.check_output(
        "command -v testssl || apt-get install --yes --no-install-recommends testssl.sh bind9-host"
    )
    # Its exit status is the number of its findings, of whatever weight.
    client.run(
        "cd /root && rm -f tls.json && testssl --quiet --color 0 --warnings batch --nodns min"
        " --ip %s"
        " --protocols --server-preference --fs --server-defaults --headers --vulnerable"
        " --jsonfile tls.json %s",
        address,
        name,
    )
    findings = json.loads(client.file("/root/tls.json").content_string)
    assert len(findings) > 50
    return {
        each["id"]: each["finding"]
        for each in findings
        if each["severity"] in {"MEDIUM", "HIGH", "CRITICAL", "WARN", "FATAL"}
        # Of several certificates, it says behind the name which one.
        and each["id"].split()[0] not in (*_LABS, *_JUDGES)
    }
