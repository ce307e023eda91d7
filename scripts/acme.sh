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
run() { # run LOG ARGUMENTS...: go test with the authority; all that it said only when it fails
	log=$bin/$1
	shift
	DETOUR_PEBBLE=$bin "$GO" test -tags pebble -p 1 -count=1 -timeout 5m -v "$@" ./internal/acme ./internal/daemon >"$log" 2>&1 ||
		{ cat "$log"; exit 1; }
	grep -E '^(--- |ok|FAIL)' "$log"
}
tests='Domain|Address|Renewal|Account|Authority|Answer|Port|Profile|Clock'
if [ $# -gt 0 ]; then
	run log -run "$tests" "$@"
	exit
fi
# CertMagic remembers for a whole process which names could not be renewed lately, and tests share their one address.
run log-renewal -run '^TestRenewal$'
run log -run "$tests" -skip '^TestRenewal$'
