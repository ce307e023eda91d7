package admit

// Troubled is a Source that can be in trouble.
type Troubled interface {
	// Trouble says what is wrong now, for the operator; empty: nothing is.
	Trouble() string
}

// Trouble is why the source cannot be asked.
func (c *CachedSource) Trouble() string {
	if r := c.Report().(CacheReport); !r.Up {
		return r.LastError
	}
	return ""
}

// Trouble is why no list came.
func (s *ListSource) Trouble() string { return s.Report().(ListReport).Error }

// Trouble is why the file is not what is in force.
func (f *KeysFile) Trouble() string { return f.Report().(KeysReport).Error }
