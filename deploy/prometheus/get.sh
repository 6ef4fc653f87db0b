#!/bin/sh
# Fetch promtool and prometheus from Debian's package, without installing it:
#
#   sh deploy/prometheus/get.sh [FOLDER]     .venv/prometheus unless given; prints the folder
#
# Needs apt-get and dpkg-deb (Debian, Ubuntu), no root, and touches nothing outside FOLDER. What is
# there is kept. Both are Go programs that need libc alone, so the package's own dependencies (its
# web pages) are left out. Exit code 3: this machine has no apt, or its index has no such package.
set -eu
folder=${1:-.venv/prometheus}
package=prometheus
works() { "$1/promtool" --version >/dev/null 2>&1 && "$1/prometheus" --version >/dev/null 2>&1; }

if works "$folder"; then
    printf '%s\n' "$folder"
    exit 0
fi
for tool in apt-get dpkg-deb tar; do
    command -v "$tool" >/dev/null 2>&1 || {
        echo "$tool is not on this machine: put promtool and prometheus into $folder by hand" >&2
        exit 3
    }
done
mkdir -p "$folder"
work=$(mktemp -d "$folder/get.XXXXXX") # a half-made one is never taken for a whole one
trap 'rm -rf "$work"' EXIT
work=$(cd "$work" && pwd)
chmod 755 "$work"
# Whoever is root would have apt step down to a user who may not write here.
options="-qq -o APT::Sandbox::User="
fetch() { (cd "$work" && apt-get $options "$@" download "$package") >"$work/log" 2>&1; }

if ! fetch; then # the lists are empty or old: new ones, of our own
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    own="-o Dir::State::Lists=$work/lists -o Dir::Cache=$work/cache"
    # shellcheck disable=SC2086 # options are words
    if ! apt-get $options $own update >"$work/log" 2>&1 || ! fetch $own; then
        tail -n 3 "$work/log" >&2
        echo "apt has no package $package here" >&2
        exit 3
    fi
fi
dpkg-deb --fsys-tarfile "$work/$package"_*.deb |
    tar -x -C "$work" --strip-components=3 ./usr/bin/promtool ./usr/bin/prometheus
works "$work" || {
    echo "what the package $package holds does not run here" >&2
    exit 3
}
mv -f "$work/promtool" "$work/prometheus" "$folder/"
printf '%s\n' "$folder"
