//go:build !pebble

package daemon

import "go.uber.org/goleak"

// leaks are goroutines that may outlive the tests: none.
func leaks() []goleak.Option { return nil }
