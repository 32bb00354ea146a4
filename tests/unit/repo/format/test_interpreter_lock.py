"""AES and SHA-256 release the interpreter lock, so that threads decrypt in parallel."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

_DATA = bytes(64 << 20)


def _decrypt() -> None:
    Cipher(AES(bytes(32)), CTR(bytes(16))).decryptor().update(_DATA)


def _hash() -> None:
    hashlib.sha256(_DATA).digest()


@pytest.mark.parametrize("work", [_decrypt, _hash], ids=["AES-256-CTR", "SHA-256"])
def test_the_lock_is_released(work: Callable[[], None]) -> None:
    """While another thread processes 64 MiB, this one continues to run Python code.

    If the lock were held, this thread would not run between the start and the end of the work,
    because the switch interval is far longer than that.
    """
    started, finished = threading.Event(), threading.Event()

    def run() -> None:
        started.set()
        work()
        finished.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        turns = 0
        while not finished.is_set() and turns < 1000:
            turns += 1
            finished.wait(0)  # releases the lock, and acquires it again to return
        thread.join()
    finally:
        sys.setswitchinterval(before)
    assert turns >= 1000
