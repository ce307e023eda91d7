//go:build race

package link

// raceEnabled: the race detector makes sync.Pool drop things at random.
const raceEnabled = true
