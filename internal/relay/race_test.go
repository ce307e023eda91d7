//go:build race

package relay

// raceEnabled: the race detector makes sync.Pool drop things at random.
const raceEnabled = true
