"""Reading a TOML file a person wrote."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from tacit.errors import ConfigError


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: the file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist", hint="check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:  # an integer of 5000 digits is not a TOMLDecodeError
        raise ConfigError(f"{path} is not valid TOML: {error}", hint="see toml.io for the format") from error
