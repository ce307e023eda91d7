package bench

import "time"

// usage is what a process has used up to a moment.
type usage struct {
	at  time.Time
	cpu time.Duration // user and system, of all threads
	rss int64         // resident memory now, bytes
}
