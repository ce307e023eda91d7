package admit

// Fallback says what to do about a peer while its source cannot tell.
type Fallback int

// The zero value is the default.
const (
	FallbackCached Fallback = iota // admit whom it allowed lately
	FallbackRefuse
	FallbackAdmit
)
