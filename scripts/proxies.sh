#!/bin/bash
# The recipes of docs/proxies with the real programs. As root with apt-get it installs what is missing, from Debian,
# and starts none of it as a service. What cannot be had is skipped, loudly; what is there must pass.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
GO=${GO:-go}

notice() { # notice LINE...
  {
    echo '************************************************************************'
    printf '** %s\n' "$@"
    echo '************************************************************************'
  } >&2
}

# missing prints the programs that are not here, and the packages that have them.
missing() {
  local pair
  for pair in nginx:nginx haproxy:haproxy caddy:caddy; do
    command -v "${pair%%:*}" >/dev/null || echo "${pair#*:}"
  done
}

mapfile -t want < <(missing)
if ! nginx -V 2>&1 | grep -q -- '--with-stream\b' || [[ -d /usr/lib/nginx && ! -e /usr/lib/nginx/modules/ngx_stream_module.so ]]; then
  want+=(libnginx-mod-stream)
fi
if ((${#want[@]})) && ((EUID == 0)) && command -v apt-get >/dev/null; then
  echo "installing: ${want[*]}"
  export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 # in which Debian's packages start no services
  apt-get update -qq || true
  for package in "${want[@]}"; do # one by one: that one is not to be had must not cost the others
    apt-get install -y -qq --no-install-recommends "$package" >/dev/null || notice "cannot install $package"
  done
fi
mapfile -t without < <(missing)
if ((${#without[@]})); then
  notice "SKIPPED, NOT TRIED, since they are not here and cannot be installed: ${without[*]}"
fi
DETOUR_PROXIES_WITHOUT="${without[*]:-}" "$GO" test -tags proxies -count 1 -timeout 5m -v \
  -run '^(TestProxy|TestFallbackToNginx|TestSNIRouteToNginx)' ./cmd/detour
if ((${#without[@]})); then
  notice "SKIPPED, NOT TRIED: ${without[*]}" # again, where it is not scrolled away
fi
