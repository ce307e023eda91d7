//go:build !linux

package bench

import "errors"

// readUsage has no portable form.
func readUsage(int) (usage, error) {
	return usage{}, errors.New("only Linux tells")
}
