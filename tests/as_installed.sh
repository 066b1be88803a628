#!/bin/sh
# as_installed.sh VENV DIRECTORY: lays the programs out as `pip install .` does, out of links into the checkout and VENV.
# An editable installation is found through `site`, which takes 20 ms at every start, and as a module, where no fork becomes the
# worker: what is measured and tested end to end should start as it does for users.
set -e
here=$(cd "$(dirname "$0")/.." && pwd)
venv=$(cd "$1" && pwd)
mkdir -p "$2"
target=$(cd "$2" && pwd)
packages=$(echo "$venv"/lib/python3*/site-packages)
own=$target/${packages#"$venv"/}
rm -rf "$target/bin" "$target/lib"
mkdir -p "$target/bin" "$own"
ln -s "$(readlink -f "$venv/bin/python3")" "$target/bin/python3"
ln -s "$venv/bin/pasta-py" "$target/bin/"
cp "$here"/pasta_py/bin/* "$target/bin/"
for each in "$packages"/*; do
    case ${each##*/} in
    __editable__* | pasta_py*) ;;
    *) ln -s "$each" "$own/" ;;
    esac
done
ln -s "$here/pasta_py" "$own/pasta_py"
"$venv/bin/python3" -m compileall -q "$here/pasta_py" # as pip does: an ordinary user may not write it here
