#!/bin/sh
# Runs every fuzz target of this module for TIME each, one after the other, since each uses every CPU by itself.
# usage: fuzz.sh TIME      for example 10s, or 1000x for a number of inputs
set -eu
GO=${GO:-go}
time=${1:?usage: fuzz.sh TIME}
listing=$("$GO" test -list '^Fuzz' ./...) || { printf '%s\n' "$listing"; exit 1; }
# Names come first, then their package's line: "ok  PACKAGE  0.01s".
targets=$(printf '%s\n' "$listing" |
	awk '/^Fuzz/ {name[n++] = $1} $1 == "ok" {for (i = 0; i < n; i++) print $2, name[i]; n = 0}')
[ -n "$targets" ] || { echo 'fuzz: no fuzz target found' >&2; exit 1; }
printf '%s\n' "$targets" | while read -r package name; do
	echo "fuzz: $package $name"
	"$GO" test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$package"
done
echo "fuzz: $(printf '%s\n' "$targets" | wc -l | tr -d ' ') targets, $time each"
