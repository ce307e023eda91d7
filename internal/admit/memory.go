package admit

import (
	"time"

	"github.com/detour-relay/detour/internal/key"
)

// Stored is a source's Allow as it is kept on disk, to serve after a restart when
// the source may be down together with the relay.
type Stored struct {
	Member Member    `json:"member"`
	At     time.Time `json:"at"` // when the source last said so
}

// Memory keeps one source's Allows. It is safe for concurrent use.
type Memory interface {
	// Load returns what was saved before; the caller owns it.
	Load() (map[key.Public]Stored, error)
	// Save puts some in and takes some out. They are on disk when it returns.
	Save(allowed map[key.Public]Stored, gone []key.Public) error
}
