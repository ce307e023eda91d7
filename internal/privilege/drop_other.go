//go:build !linux

package privilege

import "errors"

var errLinuxOnly = errors.New("run_as: only Linux can do that; hint: leave run_as empty, and start the relay as the user that it shall be")

// Drop fails: see the package's text.
func Drop(User) error { return errLinuxOnly }

// Give fails: see the package's text.
func (e *Estate) Give(User) error { return errLinuxOnly }

// Unreachable finds nothing, as nobody is dropped to.
func (e *Estate) Unreachable() []Obstacle { return nil }
