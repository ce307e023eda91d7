package stun

import "golang.org/x/sys/windows"

// What a failed bind is told apart by.
const (
	errAddrInUse    = windows.WSAEADDRINUSE
	errAddrNotAvail = windows.WSAEADDRNOTAVAIL
	errAccess       = windows.WSAEACCES
	errNoFamily     = windows.WSAEAFNOSUPPORT
	errNoProtocol   = windows.WSAEPROTONOSUPPORT
)
