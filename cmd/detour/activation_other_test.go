//go:build !unix

package main

// playActivated does nothing: there is no systemd.
func playActivated() {}
