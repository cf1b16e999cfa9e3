"""A real PgBouncer in front of a test's database."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.hub_process import free_port, wait_until
from tracking.demo.postgres import PORT, ROLE, Cluster


class Pooler:
    """PgBouncer in front of a private cluster, with a `pool_mode` of session, transaction or statement."""

    def __init__(self, cluster: Cluster, directory: Path, mode: str) -> None:
        self.port = free_port()
        self._log = directory / "pgbouncer.log"
        self._config = directory / "pgbouncer.ini"
        self._config.write_text(
            f"""
            [databases]
            * = host={cluster.socket_directory} port={PORT} user={ROLE}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = any
            pool_mode = {mode}
            default_pool_size = 30
            ignore_startup_parameters = idle_in_transaction_session_timeout
            """
        )
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        return f"postgresql://{ROLE}@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("no pgbouncer on this machine: ./setup.sh dev installs it where it can")
        # PgBouncer refuses to run as root. The cluster's owner may use its socket.
        account = ["-u", "postgres"] if os.geteuid() == 0 else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [program, *account, self._config], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._answers, f"PgBouncer did not start; see {self._log}")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
