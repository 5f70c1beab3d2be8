"""The plug-in of docs/write-a-protocol-server.md, as the page has it."""

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = Path(__file__).parents[2] / "docs" / "write-a-protocol-server.md"
_FILE = re.compile(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    """Its files: name -> content."""
    return dict(_FILE.findall(PAGE.read_text()))


def server_module() -> ModuleType:
    """line_sensors/server.py, without being installed."""
    module = ModuleType("line_sensors_of_the_page")
    sys.modules[module.__name__] = module  # where dataclasses look for it
    exec(compile(files()["line_sensors/server.py"], str(PAGE), "exec"), vars(module))
    return module
