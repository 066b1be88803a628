"""What the installed commands (pasta_py/bin) run by path, under `python -IS`: finds the package, and leaves the rest to `start`.

Short, because Python compiles a script anew each time: what is in `start` would take 1 ms.
"""

import posix
import sys

_script = __file__ if __file__.startswith("/") else f"{posix.getcwd()}/{__file__}"
_packages = _script.rpartition("/pasta_py/")[0]
# The shell took the first pythonX.Y there is; ours is the one of this interpreter, if it has the package too.
_library, _, _kind = _packages.rpartition("/")
_own = f"{_library.rpartition('/')[0]}/python{sys.version_info[0]}.{sys.version_info[1]}/{_kind}"
try:
    posix.stat(f"{_own}/pasta_py")
except OSError:
    _own = _packages
sys.path.append(_own)

from pasta_py.control.start import dispatch  # noqa: E402

dispatch.main(bare=True)
