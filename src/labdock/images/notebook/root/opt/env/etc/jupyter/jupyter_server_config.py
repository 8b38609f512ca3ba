"""What every session's notebook server is set to; Jupyter gives this file ``c``, as jupyter_server_config.py."""

from jupyter_core.paths import jupyter_path

c.ServerApp.terminals_enabled = True
# It carries settings over from the classic notebook, which was never here.
c.ServerApp.jpserver_extensions = {"notebook_shim": False}
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
# The environment is read-only: a manager that offers to install could only fail.
c.LabApp.extension_manager = "readonly"
# The default, less a folder of IPython 2 that it imports all of IPython to find.
c.KernelSpecManager.kernel_dirs = jupyter_path("kernels")
