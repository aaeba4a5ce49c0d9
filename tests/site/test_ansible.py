"""How this project's programs run Ansible's."""

from __future__ import annotations

import json

import pytest

from sigsum_ops.site import ansible


def test_what_is_parsed_has_no_colours_also_for_who_wants_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ANSIBLE_FORCE_COLOR", "true")
    said = ansible.run(
        *("ansible", "localhost", "-c", "local", "-m", "debug", "-a", "msg=hello"), inventory=None
    ).stdout
    assert json.loads(said.partition("=> ")[2]) == {"msg": "hello"}
