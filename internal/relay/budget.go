package relay

import (
	"errors"
	"sync/atomic"

	"github.com/detour-relay/detour/internal/derp"
)

// What strangers may keep in memory by a ClientInfo that is larger than a client's,
// or by what they send behind it before they are known.
const (
	// smallInfo is as much, in bytes, as a link keeps in a buffer of that size.
	// Clients send some 200.
	smallInfo = 2 << 10
	// largeCost is what more takes: the link's buffer for the largest frame, the
	// record that it comes in, and the copies that opening it makes.
	largeCost = 96<<10 + 18<<10 + 4*derp.MaxClientInfo
	// loginBudget is for all of them together.
	loginBudget = 16 << 20
)

var errLoginBudget = errors.New("no room for another login as large as this")

// budget is memory for large logins, in bytes. Its zero value is all there.
type budget struct{ used atomic.Int64 }

// take reserves largeCost bytes; false when there are not so many left.
func (b *budget) take() bool {
	if b.used.Add(largeCost) > loginBudget {
		b.give()
		return false
	}
	return true
}

func (b *budget) give() { b.used.Add(-largeCost) }
