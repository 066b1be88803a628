#!/bin/sh
# fetch.sh DIRECTORY: Debian's unbound, named, dnssec-signzone, Go, vsftpd, coturn, Firefox, musl, PostgreSQL and a compiler for C#
# in DIRECTORY, with the libraries that the machine lacks.
# Nothing is installed, so no server starts. What is there is kept.
set -eu
directory=$1
wanted="unbound bind9 bind9-utils golang-go vsftpd coturn firefox-esr musl-dev postgresql postgresql-client mono-mcs"
[ "$(cat "$directory/wanted" 2>/dev/null)" != "$wanted" ] || exit 0
mkdir -p "$directory/packages"
cd "$directory/packages"
# shellcheck disable=SC2086
needed=$(apt-get install -s -y --no-install-recommends $wanted | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
# shellcheck disable=SC2086
apt-get download -q $needed
for package in *.deb; do
    dpkg-deb -x "$package" ..
done
rm -- *.deb
echo "$wanted" >../wanted
