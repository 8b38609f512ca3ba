"""The image's own kernel in place of an environment's: the first cell that runs shows why.

Run as a program, with LABDOCK_NOTICE holding the lines to show.
"""

import os
import sys

# A program's folder stands first on the path of modules; a kernel's has the notebook's there instead.
del sys.path[0]

from ipykernel.kernelapp import IPKernelApp  # noqa: E402


def main() -> None:
    text = os.environ.pop("LABDOCK_NOTICE", "")
    app = IPKernelApp.instance()
    app.initialize(sys.argv[1:])
    events = app.shell.events

    def tell(*_: object) -> None:
        events.unregister("pre_run_cell", tell)
        print(text, flush=True)

    events.register("pre_run_cell", tell)
    app.start()


main()
