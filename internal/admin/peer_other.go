//go:build !linux && !darwin && !freebsd

package admin

import "errors"

// socketUID cannot tell: on this system the socket's mode alone keeps others out.
func socketUID(int) (uint32, error) { return 0, errors.ErrUnsupported }
