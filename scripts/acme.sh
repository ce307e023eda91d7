#!/bin/sh
# Certificates from a real ACME server: builds Pebble and its challenge test server into bin/pebble-VERSION, and runs
# the tests that need them. Everything listens on loopback. Arguments go to go test, for example -run TestRenewal.
set -eu
cd "$(dirname "$0")/.."
GO=${GO:-go}
version=v2.10.1
bin=$PWD/bin/pebble-$version
for program in pebble pebble-challtestsrv; do
	[ -x "$bin/$program" ] || GOBIN="$bin" "$GO" install "github.com/letsencrypt/pebble/v2/cmd/$program@$version"
done
command -v curl >/dev/null || { echo 'acme: curl is missing, which the DNS hook under test uses; hint: install it' >&2; exit 2; }
DETOUR_PEBBLE=$bin "$GO" test -tags pebble -p 1 -count=1 -timeout 5m -v -run 'Domain|Address|Renewal|Account|Authority|Answer|Port|Profile|Clock' \
	"$@" ./internal/acme ./internal/daemon >"$bin/log" 2>&1 || { cat "$bin/log"; exit 1; }
grep -E '^(--- |ok|FAIL)' "$bin/log"
