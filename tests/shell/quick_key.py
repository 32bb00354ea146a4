"""Makes opening a repository quick: the same master key behind a far cheaper scrypt.

restic chooses scrypt's cost so that opening takes half a second; a test opens many times.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

from cesbrfs.repo.crypto import derive, open_record, seal_record
from cesbrfs.repo.model import parse_key_file

_COST = 16


def make_quick(repository: Path, password: bytes) -> None:
    """Replace the only key file of a local repository."""
    (old,) = (repository / "keys").iterdir()
    given = json.loads(old.read_bytes())
    key_file = parse_key_file(old.read_bytes())
    assert key_file.data is not None
    master = open_record(derive(password, key_file), key_file.data)
    given["N"] = key_file.N = _COST
    sealed = seal_record(derive(password, key_file), master, os.urandom(16))
    given["data"] = base64.b64encode(sealed).decode()
    content = json.dumps(given).encode()
    new = repository / "keys" / hashlib.sha256(content).hexdigest()
    new.write_bytes(content)
    old.unlink()
