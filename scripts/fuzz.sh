#!/bin/sh
# Runs every fuzz target of this module for TIME each, one after the other, since each uses every CPU by itself.
# usage: fuzz.sh TIME      for example 10s, or 1000x for a number of inputs
#
# Up to Go 1.26 a run that ends by its time, on a busy machine, may report its own deadline as a failure although no
# input failed (https://go.dev/issue/75804, mended in Go 1.27). Such a run, and no other, is made again, twice at most.
set -eu
GO=${GO:-go}
time=${1:?usage: fuzz.sh TIME}
listing=$("$GO" test -list '^Fuzz' ./...) || { printf '%s\n' "$listing"; exit 1; }
# Names come first, then their package's line: "ok  PACKAGE  0.01s".
targets=$(printf '%s\n' "$listing" |
	awk '/^Fuzz/ {name[n++] = $1} $1 == "ok" {for (i = 0; i < n; i++) print $2, name[i]; n = 0}')
[ -n "$targets" ] || { echo 'fuzz: no fuzz target found' >&2; exit 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() { # run PACKAGE NAME
	status=0
	"$GO" test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" >"$log" 2>&1 || status=$?
	cat "$log"
	return "$status"
}

# What a failing input, a panic, a hang or a failed build prints holds more than the one line of the deadline.
only_the_deadline() {
	grep -q '^ *context deadline exceeded$' "$log" &&
		! grep -v -e '^fuzz: elapsed: ' -e '^--- FAIL: Fuzz' -e '^ *context deadline exceeded$' \
			-e '^FAIL' -e '^exit status 1$' "$log" | grep -q .
}

printf '%s\n' "$targets" | while read -r package name; do
	echo "fuzz: $package $name"
	tries=1
	until run "$package" "$name"; do
		only_the_deadline && [ "$tries" -lt 3 ] || exit 1
		tries=$((tries + 1))
		echo "fuzz: no input failed, only Go's own deadline (go.dev/issue/75804); once more"
	done
done
echo "fuzz: $(printf '%s\n' "$targets" | wc -l | tr -d ' ') targets, $time each"
