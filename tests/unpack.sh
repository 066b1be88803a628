#!/bin/sh
# unpack.sh DIRECTORY SUITE ARCHITECTURE PACKAGE[=VERSION]...: Debian packages, with all that they depend on, unpacked in a new
# DIRECTORY. DIRECTORY/packages lists PACKAGE VERSION of all of them. src:NAME puts that package's source archives into DIRECTORY/src.
#
# Nothing is installed and no root is needed; apt and dpkg are. A version that the archive no longer has gives way to the present one.
# MIRROR is the archive; the machine's own by default.
set -eu
directory=$1 suite=$2 architecture=$3
shift 3

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quietly() {
    "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }
}

# apt gets lists and a state of its own: what the machine installs from stays as it is. sid's release file can be past its date.
mirror=${MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 2>/dev/null | grep -m 1 '/debian/$')}
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
: >"$work/state/status"
for kind in deb deb-src; do
    echo "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main"
done >"$work/sources.list"
cat >"$work/apt.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
Dir::State "$work/state";
Dir::State::status "$work/state/status";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
CONF
export APT_CONFIG="$work/apt.conf"
quietly apt-get update -q
packages= sources=
for each; do
    case $each in
    src:*) sources="$sources ${each#src:}" ;;
    *)
        apt-cache madison "${each%%=*}" | grep -qF "| ${each#*=} |" || each=${each%%=*}
        packages="$packages $each"
        ;;
    esac
done
# To apt nothing is installed, so this fetches what the packages depend on too.
# shellcheck disable=SC2086
quietly apt-get install -q -y --download-only --no-install-recommends $packages

mkdir "$directory"
for package in "$work"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$directory"
    dpkg-deb --show --showformat '${Package} ${Version}\n' "$package"
done >"$work/packages"
mv "$work/packages" "$directory/packages"
if [ "$sources" ]; then
    directory=$(cd "$directory" && pwd)
    mkdir "$directory/src"
    cd "$directory/src"
    # shellcheck disable=SC2086
    quietly apt-get source -q --download-only --tar-only $sources
fi
