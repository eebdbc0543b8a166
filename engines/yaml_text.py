"""YAML as people write it: what is wrong with a file is told in one phrase."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.reader import ReaderError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe one, but for keys that are given twice: it would take the last in silence."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def parse_yaml(data: bytes) -> Any:
    """What a YAML file holds: mappings, lists, texts, numbers, truths, None.

    Args:
        data: the file, UTF-8 (or UTF-16 with its mark, as YAML allows).

    Raises:
        ValueError: it is no YAML; the message is a phrase to put behind the file's name.
    """
    try:
        return yaml.load(data, _Loader)
    except ReaderError as error:
        if error.encoding == "unicode":
            raise ValueError(f"holds the character U+{error.character:04X}, which YAML does not allow") from error
        line = data.count(b"\n", 0, error.position) + 1
        raise ValueError(f"is not UTF-8 (byte 0x{error.character:02X} in line {line}): save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        place = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"is not YAML{place}: {error.problem or error.context or 'unreadable'}") from error
    except RecursionError:
        raise ValueError("is not usable: it is nested too deeply") from None
    except ValueError as error:  # a date that is none, a number that is too long
        raise ValueError(f"holds a value that cannot be: {error}") from error
