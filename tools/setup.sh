#!/usr/bin/env bash
# All set-up, idempotent: Debian packages by name (as root), then .venv with Everup and its tools.
set -euo pipefail
cd "$(dirname "$0")/.."

# What a protected server needs, what the lab runs, what the tests read.
packages=(
  python3-venv nftables iproute2 e2fsprogs xfsprogs systemd systemd-container dbus libpam-systemd
  postgresql postgresql-contrib mariadb-server etcd-server etcd-client fio sysbench sqlite3 git attr acl chromium curl arping stress-ng
)

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "setup: these packages are missing and need root: ${missing[*]}" >&2
    echo "setup: remedy: sudo apt-get install ${missing[*]}" >&2
  else
    echo "setup: installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # No service may start by itself on the machine that only lends its files to the lab.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
      trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # Nor at the next boot; only the lab's servers run etcd, under a unit of the lab.
    if [[ " ${missing[*]} " == *" etcd-server "* && ! -e /etc/systemd/system/etcd.service ]]; then
      ln -sfn /dev/null /etc/systemd/system/etcd.service
    fi
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    if [[ " ${missing[*]} " == *" mariadb-server "* ]]; then
      systemctl --quiet disable mariadb
    fi
  fi
fi

python=/usr/bin/python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "setup: Everup needs Python 3.11 or newer as /usr/bin/python3" >&2
  exit 1
}
stamp=.venv/setup.stamp
if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
  echo "setup: making .venv"
  "$python" -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check -e '.[lab,dev]'
  touch "$stamp"
fi
