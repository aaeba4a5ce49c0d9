"""Who is told: settings that would wake nobody are refused."""

from __future__ import annotations

import pytest

from sigsum_ops.monitoring.receivers import problems

SMTP = {"smarthost": "mail.example.org:587", "from": "log@example.org"}
GOOD = {
    "page": {"mail": ["oncall@example.org"], "webhook": ["https://pager.example.org/a?b=c"]},
    "ticket": {"mail": ["ops@example.org"]},
    "dead_man": {"webhook": ["https://alive.example.org/1"]},
}


@pytest.mark.parametrize(
    ("receivers", "smtp"), [(GOOD, SMTP), ({"page": {"webhook": ["http://192.0.2.1/"]}}, {})]
)
def test_good_settings(receivers: object, smtp: object) -> None:
    assert list(problems(receivers, smtp)) == []


@pytest.mark.parametrize(
    ("receivers", "smtp", "said"),
    [
        ({}, {}, "monitoring_receivers.page has neither mail nor webhook"),
        ({**GOOD, "page": {}}, SMTP, "nobody would be woken"),
        ({**GOOD, "pages": {}}, SMTP, "pages is no kind"),
        ({**GOOD, "ticket": ["ops@example.org"]}, SMTP, "monitoring_receivers.ticket is"),
        ({**GOOD, "ticket": {"sms": ["1"]}}, SMTP, "monitoring_receivers.ticket is"),
        ({**GOOD, "ticket": {"mail": "ops@example.org"}}, SMTP, "in a list"),
        ({**GOOD, "ticket": {"mail": ["example.org"]}}, SMTP, "has 'example.org'"),
        ({**GOOD, "page": {"webhook": ["ftp://a/"]}}, SMTP, "has 'ftp://a/'"),
        ({**GOOD, "page": {"webhook": ["http://[a/"]}}, SMTP, "has 'http://[a/'"),
        (GOOD, {}, "mail could not be sent"),
        (GOOD, {**SMTP, "password": "x"}, "password is no setting"),
        (GOOD, {**SMTP, "smarthost": "mail.example.org"}, "Allowed: host:port"),
        ("page", SMTP, "are mappings"),
    ],
)
def test_what_cannot_be_right_is_named(receivers: object, smtp: object, said: str) -> None:
    (found,) = problems(receivers, smtp)
    assert said in found
