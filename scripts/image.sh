#!/bin/bash
# Tries the image without Docker: writes the archive that `docker load` takes, unpacks it, and runs its binary by chroot
# as the image says, with a container's capabilities, in its own network and process namespaces. Root on Linux.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
GO=${GO:-go}
LINTER=dockerfile-utils@0.16.3
export VERSION=${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo dev)}

skip() {
  echo '************************************************************************'
  printf '** image: SKIPPED: %s\n' "$@"
  echo '************************************************************************'
}

lint() { # a Dockerfile linter, where npm can get it
  local dir=bin/${LINTER/@/-}
  if ! command -v npm >/dev/null; then
    skip "the Dockerfile is not linted: there is no npm"
    return 0
  fi
  [[ -x $dir/node_modules/.bin/dockerfile-utils ]] || npm install --silent --no-fund --no-audit --prefix "$dir" "$LINTER" >/dev/null || {
    rm -rf "$dir"
    skip "the Dockerfile is not linted: npm cannot get $LINTER"
    return 0
  }
  "$dir/node_modules/.bin/dockerfile-utils" lint deploy/Dockerfile
}

unit() { # the unit as systemd reads it, with the binary where it is here
  if ! command -v systemd-analyze >/dev/null; then
    skip "detour.service is not verified: there is no systemd-analyze"
    return 0
  fi
  local tmp said
  tmp=$(mktemp -d)
  sed "s|/usr/local/bin/detour|$PWD/dist/build/detour-amd64|" deploy/detour.service >"$tmp/detour.service"
  said=$(systemd-analyze verify "$tmp/detour.service" 2>&1) || true
  if [[ -n $said ]]; then
    echo "$said"
    exit 1
  fi
  systemd-analyze security --offline=true --threshold=20 --no-pager "$tmp/detour.service" | tail -n 1
  rm -rf "$tmp"
}

lint
./scripts/release.sh amd64
unit
if ((EUID != 0)) || [[ $(uname -s) != Linux ]]; then
  skip "the image is written and not run: that needs root on Linux"
  exit 0
fi
if [[ $(uname -m) != x86_64 ]]; then
  skip "the image is written and not run: it is for amd64, and this machine is not"
  exit 0
fi
DETOUR_IMAGE="$PWD/dist/detour-image_${VERSION}_linux_amd64.tar" "$GO" test -count=1 -v -run Image ./deploy/pack
