"""YAML as our files write it: plain data, and no key of a mapping twice."""

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, which by itself keeps the last of two equal keys and drops the others silently."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # Any: the stubs have a wrong type
        # Here and not on construction: by then merge keys (<<) have put overridden keys beside their replacements.
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def parse_yaml(text: str) -> Any:
    """Return the content of ``text``.

    Raises ``yaml.YAMLError`` for text that is not YAML, and for a mapping with two equal keys; ``problem`` and
    ``problem_mark`` of the error say what is wrong and where.
    """
    return yaml.load(text, _Loader)  # noqa: S506  (a subclass of SafeLoader)
