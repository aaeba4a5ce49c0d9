"""Controller side of managed_files: renders the templates, then runs the module once."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):  # type: ignore[misc]  # ansible-core is not typed
    """See the documentation of the module of the same name."""

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Replace each ``template`` by the ``content`` that it renders to."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = dict(task_vars or {})
        arguments = dict(self._task.args)
        arguments["files"] = [
            self._with_content(dict(item), variables) for item in arguments.get("files", [])
        ]
        result.update(
            self._execute_module(
                module_name="sigsum_ops.site.managed_files",
                module_args=arguments,
                task_vars=variables,
            )
        )
        return result

    def _with_content(self, item: dict[str, Any], variables: dict[str, Any]) -> dict[str, Any]:
        name = item.pop("template", None)
        if (name is None) == ("content" not in item):
            raise AnsibleActionFail(
                f"{item.get('path')}: takes a template or content, one of the two"
            )
        if name is not None:
            source = self._find_needle("templates", name)
            text = self._loader.get_text_file_contents(source)
            templar = self._templar.copy_with_new_env(
                available_variables=variables, searchpath=self._loader_path(source)
            )
            item["content"] = templar.template(
                trust_as_template(text), escape_backslashes=False, preserve_trailing_newlines=True
            )
        return item

    def _loader_path(self, source: str) -> list[str]:
        return [source.rsplit("/", 1)[0]]
