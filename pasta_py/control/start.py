"""From the installed commands (pasta_py/bin) to the entry points, by name.

Run by path under `python -IS`, with no search path but the standard library's; then the directory that this package is in
is added. Where something it needs is elsewhere, `site` is asked after all. As a module (-m) everything is found already.
"""

import sys

ENTRIES = {
    "pasta": "entry:pasta",
    "pasta-addresses": "addresses:main",
    "pesto": "pesto:main",
    "slirp4netns": "slirp:slirp4netns",
}


def _find_packages() -> None:
    import os

    # The shell took the first pythonX.Y there is; ours is the one of this interpreter, if it has the package too.
    packages = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    library, _, kind = packages.rpartition("/")
    own = f"{os.path.dirname(library)}/python{sys.version_info[0]}.{sys.version_info[1]}/{kind}"
    if os.path.exists(f"{own}/pasta_py"):
        packages = own
    sys.path.append(packages)
    names = os.listdir(packages)
    if "pyroute2" not in names or not any(name.startswith("_cffi_backend.") for name in names):
        import site

        site.main()


def main() -> None:
    """Run the entry point that the first argument names."""
    if not __package__:
        _find_packages()
    module, _, function = ENTRIES[sys.argv.pop(1)].partition(":")
    from importlib import import_module

    getattr(import_module(f"pasta_py.control.{module}"), function)()


if __name__ == "__main__":
    main()
