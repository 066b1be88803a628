"""The installed commands (pasta_py/bin) run this file by path, under `python -IS`. It finds the package and calls `dispatch`.

It is short, because Python compiles a script anew each time: the code of `dispatch` would take 1 ms here.
"""

import posix
import sys

_script = __file__ if __file__.startswith("/") else f"{posix.getcwd()}/{__file__}"
_packages = _script.rpartition("/pasta_py/")[0]
# The shell script took the first pythonX.Y directory. Prefer that of this interpreter, if the package is there too.
_library, _, _kind = _packages.rpartition("/")
_own = f"{_library.rpartition('/')[0]}/python{sys.version_info[0]}.{sys.version_info[1]}/{_kind}"
try:
    posix.stat(f"{_own}/pasta_py")
except OSError:
    _own = _packages
sys.path.append(_own)

from pasta_py.control.start import dispatch  # noqa: E402

dispatch.main(bare=True)
