"""YAML from strangers: plain values with one reading.

    text -> mappings, lists, texts, numbers, booleans, null,   no aliases, no tags of programs, no name twice in one mapping

An alias that stands for nine others, nine times over, is a file of a kilobyte and a value of gigabytes; nothing here needs one.
Numbers are those of YAML 1.2: 1e-4 is a number, as everywhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lgdlm.errors import InputError

FILE_BYTES = 1 << 18
FLOAT = re.compile(
    r"""[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
       |\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)""",
    re.X,
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file. Raises InputError (CONFIG): no regular file, too large, not UTF-8, and those of `parse_yaml`."""
    if not path.is_file():
        raise InputError("CONFIG", path, "file", "is no regular file" if path.exists() else "no such file")
    with path.open("rb") as file:
        data = file.read(FILE_BYTES + 1)
    if len(data) > FILE_BYTES:
        raise InputError("CONFIG", path, "file", f"is larger than {FILE_BYTES} bytes, no configuration is")
    try:
        return parse_yaml(data.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        message = f"byte 0x{data[error.start]:02x} at offset {error.start} is not UTF-8; save the file as UTF-8"
        raise InputError("CONFIG", path, "yaml", message) from None


def parse_yaml(text: str, where: object) -> dict[str, Any]:
    """The mapping that `text` holds, an empty one where it holds nothing; `where` names its file. Raises InputError (CONFIG)."""
    import yaml

    loader = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        values = {} if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        place = where if mark is None else f"{where}:{mark.line + 1}"
        raise InputError("CONFIG", place, "yaml", f"is not valid YAML: {problem.problem or problem.context}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as problem:
        raise InputError("CONFIG", where, "yaml", f"is not valid YAML: {str(problem).splitlines()[0]}") from None
    except RecursionError:
        raise InputError("CONFIG", where, "yaml", "is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()
    if not isinstance(values, Mapping):
        raise InputError("CONFIG", where, "yaml", f"a mapping of groups is expected, got {type(values).__name__}")
    return {str(name): value for name, value in values.items()}


@cache
def _loader() -> Any:
    """The loader's class; yaml is imported only now."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.composer.ComposerError(
                    None, None, "aliases (*name) are not read; write the value out", self.peek_event().start_mark
                )
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value]
            for i, (key, _) in enumerate(node.value):
                if key.value in names[:i]:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{str(key.value)[:40]!r} stands twice in one mapping", key.start_mark
                    )
            return super().construct_mapping(node, deep)

    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{FLOAT.pattern})$", re.X), list("-+0123456789."))
    return Loader
