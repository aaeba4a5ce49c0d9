"""``sigsum-ops dns``, ``policy`` and ``token``: thin verbs.

Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, cast

import typer

dns_app = typer.Typer(
    no_args_is_help=True,
    help="The TXT record by which a submitter shows a log that a domain is its own.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def ports(
    host: Annotated[str | None, typer.Argument(help="One machine only.")] = None,
    inventory: Annotated[
        Path | None,
        typer.Option("--inventory", "-i", help="File or directory; without it, ansible.cfg's."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what each machine answers and asks, as its roles declare it; contacts no machine.

    The role firewall lets this through and nothing else. "operators" are those of
    firewall_ssh_sources, "resolvers" the name servers that the machine has.

    Examples: sigsum-ops ports -i inventories/example
    sigsum-ops ports log-north -i inventories/example --json
    """
    from sigsum_ops.edge.ports import lines
    from sigsum_ops.errors import UsageError
    from sigsum_ops.site import ansible

    template = "{{ hostvars | sigsum_ops.site.site_ports(groups) }}"
    found = cast(dict[str, Any], ansible.render(template, inventory))
    if host is not None:
        if host not in found:
            raise UsageError(f"no machine {host} in the inventory", hint=", ".join(found))
        found = {host: found[host]}
    for line in [json.dumps(found)] if as_json else lines(found):
        typer.echo(line)


@dns_app.command()
def check(
    domain: Annotated[str, typer.Argument(help="The submitter's domain.")],
    key: Annotated[
        Path | None, typer.Option(help="The public key file that its tokens are made with.")
    ] = None,
    resolver: Annotated[
        list[str] | None,
        typer.Option(help="Ask this one too: an address, or address#port. Several times."),
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Ask no others: not this machine's, not the zone's own.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look a domain's keys up as a log does, and say what is wrong and who sees it.

    A log asks its resolver for TXT records at _sigsum_v1.DOMAIN, at _sigsum_v0.DOMAIN where there
    are none, and tries ten of them at most. Older documents say _sigsum, which no log asks for.
    Asked are this machine's resolvers, those of --resolver, and the servers of the zone. On a log
    machine that is the resolver that its log has.

    Exits 0 where every server that can be reached gives a log a key (that of --key), 1 otherwise.

    Example: sigsum-ops dns check release.example.org --key submit-token.pub --resolver 192.0.2.53
    """
    import asyncio

    from sigsum_ops.edge import dns, txt
    from sigsum_ops.errors import UsageError
    from sigsum_ops.log.keys import load_public_key

    wanted = None if key is None else load_public_key(key)
    name = txt.domain(domain)
    resolvers = [dns.server(each) for each in resolver or []]
    if only and not resolvers:
        raise UsageError(
            "--only without --resolver asks nobody", hint="Name one: --resolver ADDRESS"
        )
    if not only:
        resolvers = [*dns.system(), *resolvers]
    views = asyncio.run(dns.check(name, resolvers, zone=not only))
    report = {
        "domain": name,
        "problems": dns.problems(name, views, wanted),
        "servers": [dns.shown(view) for view in views],
    }
    for line in [json.dumps(report)] if as_json else dns.lines(report):
        typer.echo(line)
    raise typer.Exit(code=1 if report["problems"] else 0)


@dns_app.command()
def record(
    key: Annotated[Path, typer.Argument(help="The public key file that tokens are made with.")],
    domain: Annotated[
        str | None, typer.Option(help="With the domain's name; for its zone file otherwise.")
    ] = None,
) -> None:
    """Print the TXT record that gives a key to a domain, in a zone file's form.

    One key for each record: a second key is a second record at the same name. The key is not the
    one that leaves are signed with, but one for tokens only, so that it can be exchanged.

    Example: sigsum-ops dns record submit-token.pub --domain release.example.org
    """
    from sigsum_ops.edge import txt
    from sigsum_ops.log.keys import load_public_key

    typer.echo(txt.zone_line(load_public_key(key), domain))


def token(
    domain: Annotated[str, typer.Argument(help="The submitter's domain.")],
    signing_key: Annotated[
        Path,
        typer.Option(
            "--signing-key", "-k", help="Private key file, or the public one of an ssh-agent's key."
        ),
    ],
    log_key: Annotated[Path, typer.Option(help="The log's public key file.")] = Path(
        "/etc/sigsum/log.pub"
    ),
) -> None:
    """Make the header with which a submitter's requests are counted for its domain.

    Upstream's sigsum-token signs; sigsum-submit makes the same by itself (--token-signing-key,
    --token-domain). The token is good for one log, for as long as the key is in the domain's TXT
    record (sigsum-ops dns check). Who has it can use up the domain's limit: keep it to yourself.

    Example: sigsum-ops token release.example.org -k submit-token
    """
    from sigsum_ops.edge import txt
    from sigsum_ops.edge.token import create
    from sigsum_ops.log.keys import load_public_key

    typer.echo(create(signing_key, load_public_key(log_key), txt.domain(domain)))


policy_app = typer.Typer(
    no_args_is_help=True,
    help="Policy files: which log, which witnesses, and how many of them must have cosigned.",
)

PolicyFile = Annotated[Path, typer.Argument(help="A policy file.")]


@policy_app.command()
def lint(
    file: PolicyFile,
    of_a_log: Annotated[
        bool, typer.Option("--log", help="It is the one that a log asks its witnesses by.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether sigsum's programs can read a policy, and what it probably should not say.

    Exits 0 where nothing is found, 1 where something is, 2 where it cannot be read.

    Example: sigsum-ops policy lint inventories/production/policy.txt
    """
    from sigsum_ops.edge import policies
    from sigsum_ops.log.policy import load

    policy = load(file)
    found = list(policies.lint(policy, of_a_log=of_a_log))
    needed, spare = policies.needed(policy), policies.spare(policy)
    if as_json:
        shown = {
            "witnesses": {name: witness.key.hex for name, witness in policy.witnesses.items()},
            "needed": needed,
            "spare": spare,
            "found": found,
        }
        typer.echo(json.dumps(shown))
    else:
        count = len(policies.in_quorum(policy))
        typer.echo(f"{file}: {needed} of {count} witnesses are a quorum; {spare} may be silent")
        for each in found:
            typer.echo(f"FOUND: {each}")
    raise typer.Exit(code=1 if found else 0)


@policy_app.command()
def diff(
    old: PolicyFile,
    new: PolicyFile,
    as_json: Json = False,
) -> None:
    """Say what a change of a policy means: witnesses, keys, groups, and what the quorum needs.

    Exits 0 where they mean the same, 1 where they differ, 2 where one cannot be read.

    Example: sigsum-ops policy diff /etc/sigsum/policy policy.new
    """
    from sigsum_ops.edge import policies
    from sigsum_ops.log.policy import load

    found = list(policies.differences(load(old), load(new)))
    for line in [json.dumps({"differences": found})] if as_json else found:
        typer.echo(line)
    raise typer.Exit(code=1 if found else 0)


@policy_app.command("check")
def check_quorum(
    file: PolicyFile,
    url: Annotated[
        str | None, typer.Option(help="Where the log answers; the policy's log line otherwise.")
    ] = None,
    log_key: Annotated[
        Path | None, typer.Option(help="The log's public key file; the policy's otherwise.")
    ] = None,
    wait: Annotated[
        float,
        typer.Option(min=0, help="Seconds in which new cosignatures may come; old ones count not."),
    ] = 0,
    as_json: Json = False,
) -> None:
    """Say whether the log's newest tree head has the cosignatures that a policy wants.

    Exits 0 where there is a quorum, 1 where not, with who is missing.

    Example: sigsum-ops policy check /etc/sigsum/policy --wait 30
    """
    from datetime import UTC, datetime

    from sigsum_ops.edge import policies, quorum
    from sigsum_ops.errors import UsageError
    from sigsum_ops.log.keys import load_public_key
    from sigsum_ops.log.policy import load

    policy = load(file)
    (log,) = policy.logs if len(policy.logs) == 1 else (None,)
    key = load_public_key(log_key) if log_key else log and log.key
    where = url or (log and log.url)
    if not key or not where:
        hint = "Say which: --log-key FILE --url URL"
        raise UsageError(f"{file}: has not one log line with a key and a URL", hint=hint)
    judged = quorum.look(policy, key, where, wait)
    if as_json:
        typer.echo(json.dumps(judged.as_json()))
    else:
        for name, at in judged.cosigned.items():
            when = "has not cosigned it"
            if at is not None:
                when = f"cosigned it at {datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
            typer.echo(f"{name} {when}")
        what = "a quorum" if judged.ok else f"no quorum, which takes {policies.needed(policy)}"
        typer.echo(f"size {judged.size}: {what}")
    raise typer.Exit(code=0 if judged.ok else 1)


@policy_app.command()
def ask(
    file: PolicyFile,
    log_key: Annotated[Path, typer.Option(help="The log's public key file.")] = Path(
        "/etc/sigsum/log.pub"
    ),
    sth: Annotated[Path, typer.Option(help="The log's signed tree head.")] = Path(
        "/var/lib/sigsum-log/sth"
    ),
    as_json: Json = False,
) -> None:
    """Ask each witness of a policy how much of the log it has seen, without a new cosignature.

    For a log machine, before its log takes the policy: a witness that cannot be reached from there,
    or does not know the log, would never cosign. Exits 0 where those that answer are a quorum.

    Example: sigsum-ops policy ask /root/policy.new
    """
    from sigsum_ops.edge import policies
    from sigsum_ops.failover import witness
    from sigsum_ops.log.keys import load_public_key
    from sigsum_ops.log.policy import load
    from sigsum_ops.log.statefiles import read_if_there
    from sigsum_ops.log.treehead import parse_signed_tree_head

    policy = load(file)
    data = read_if_there(sth)
    signed = [] if data is None else [parse_signed_tree_head(data)]
    answers = witness.ask(policy.witnesses, witness.latest(signed), load_public_key(log_key))
    there = {each.name for each in answers if each.size is not None and not each.other_root}
    ok = policies.counts(policy, there)
    if as_json:
        typer.echo(json.dumps({"ok": ok, "witnesses": [vars(each) for each in answers]}))
    else:
        for each in answers:
            said = f"has seen size {each.size}" if each.size is not None else each.reason
            said = f"has ANOTHER TREE of size {each.size}" if each.other_root else said
            typer.echo(f"{each.name} {said}")
        needed = policies.needed(policy)
        typer.echo("a quorum answers" if ok else f"no quorum answers, which takes {needed}")
    raise typer.Exit(code=0 if ok else 1)


@policy_app.command()
def build(
    inventory: Annotated[
        Path | None, typer.Option("--inventory", "-i", help="Which site; ansible.cfg's otherwise.")
    ] = None,
) -> None:
    """Print the policy that the site's inventory describes: sigsum_policy, for its log.

    The log and its users take the same file, log_server_policy_file: commit it beside the
    inventory. A converge refuses one that does not say what sigsum_policy says.

    Example: sigsum-ops policy build -i inventories/production > policy.txt
    """
    from sigsum_ops.errors import UsageError
    from sigsum_ops.log.policy import build as build_text
    from sigsum_ops.log.target import log_of_inventory

    log = log_of_inventory(inventory)
    if not log.policy:
        raise UsageError(
            "the inventory has no sigsum_policy",
            hint="It names witnesses, groups and the quorum: docs/witnesses.md",
        )
    typer.echo(build_text(log.policy, (log.key, log.url)), nl=False)
