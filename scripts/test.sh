#!/bin/sh
# go test with the race detector, or without and loudly so where it cannot be had.
# usage: test.sh ARGUMENTS OF GO TEST
set -eu
GO=${GO:-go}
cc=$("$GO" env CC)
cc=${cc%% *} # CC may hold arguments after the program's name
if ! command -v "$cc" >/dev/null 2>&1; then
	why="no C compiler ($cc); hint: install gcc or clang, or set CC"
elif ! CGO_ENABLED=1 "$GO" list -race runtime/race >/dev/null 2>&1; then
	why="Go has none for $("$GO" env GOOS)/$("$GO" env GOARCH)"
else
	CGO_ENABLED=1 exec "$GO" test -race "$@"
fi
notice() {
	printf '%s\n' \
		'************************************************************************' \
		'** The tests run WITHOUT the race detector:' \
		"** $why" \
		'************************************************************************' >&2
}
notice
CGO_ENABLED=0 "$GO" test "$@"
notice # again, where it is not scrolled away
