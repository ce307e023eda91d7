package relaytest

import (
	"testing"

	"github.com/detour-relay/detour/internal/link"
)

// DefaultForm is the form of links that a relay here has.
func DefaultForm() Form { return link.Accept }

// EachForm runs a test over the form of links that is the default here, and over
// the portable one.
func EachForm(t *testing.T, f func(t *testing.T, form Form)) {
	t.Run("default", func(t *testing.T) { f(t, link.Accept) })
	t.Run("portable", func(t *testing.T) { f(t, link.AcceptPortable) })
}
