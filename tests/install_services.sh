#!/bin/sh
# Sees to the programs that the tests start: installs Debian's packages where it may (as root), else names what is missing.
set -eu

missing=""
need() { # need PACKAGE PROGRAM: a name on the PATH or a pattern of a path
    for program in $2; do
        if [ -x "$program" ] || PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null; then return; fi
    done
    missing="$missing $1"
}
need curl curl
need redis-server redis-server
need mosquitto mosquitto
need mosquitto-clients mosquitto_pub
need postgresql "/usr/lib/postgresql/*/bin/initdb"
need chromium chromium
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "the tests need these programs (Debian's names of the packages):$missing" >&2
    exit 1
fi

echo "installing for the tests:$missing" >&2
if [ ! -e /usr/sbin/policy-rc.d ]; then # the tests start their own servers; the packages' must not take the ports
    trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
if ! { apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    exit 1
fi
rm -f "$log"
