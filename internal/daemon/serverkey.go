package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/detour-relay/detour/internal/key"
)

// maxKeyFile bounds what is read as a key file, in bytes.
const maxKeyFile = 64 << 10

// keyFile is the form of derper's key file, so that a relay can move either way
// with its key. Unknown fields are ignored.
type keyFile struct {
	PrivateKey string
}

// LoadServerKey reads the relay's private key from a file in derper's format. A
// missing file gives an error that matches fs.ErrNotExist.
func LoadServerKey(path string) (key.Private, error) {
	b, err := readSmall(path)
	if err != nil {
		return key.Private{}, fmt.Errorf("read the server key: %w; hint: check the path, and that the user that runs detour may read it", err)
	}
	var f keyFile
	if err := json.Unmarshal(b, &f); err != nil {
		return key.Private{}, badKeyFile(path, "is not JSON")
	}
	if f.PrivateKey == "" {
		return key.Private{}, badKeyFile(path, "has no PrivateKey")
	}
	k, err := key.ParsePrivate(f.PrivateKey)
	if err != nil {
		return key.Private{}, badKeyFile(path, "has a bad PrivateKey: "+err.Error())
	}
	return k, nil
}

func badKeyFile(path, what string) error {
	return fmt.Errorf("server key file %s %s; hint: restore it from a backup, or move it away and start again: "+
		"a new key is made, and clients reconnect by themselves", path, what)
}

// readSmall reads a file that is meant to be small.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxKeyFile)
	}
	return os.ReadFile(path)
}

// CreateServerKey makes a new key and writes it to a file that must not exist
// yet: mode 0600, its directory made with mode 0700, whole or not at all.
func CreateServerKey(path string) (key.Private, error) {
	k := key.NewPrivate()
	b, err := json.MarshalIndent(keyFile{k.Reveal()}, "", "\t")
	if err != nil {
		return key.Private{}, fmt.Errorf("encode the server key: %w", err)
	}
	if err := writeNew(path, b); err != nil {
		return key.Private{}, fmt.Errorf("write the server key: %w; hint: the directory must be writable for the user that runs detour, or name another with --state-dir", err)
	}
	return k, nil
}

// writeNew writes a file under a name that must be free. A link gives the name
// to a finished file, so that of two processes one wins and neither reads half.
func writeNew(path string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	return os.Link(tmp.Name(), path)
}

// loadOrCreateServerKey returns the key in the file, making it when missing.
func loadOrCreateServerKey(path string) (k key.Private, created bool, err error) {
	k, err = LoadServerKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, false, err
	}
	k, err = CreateServerKey(path)
	if errors.Is(err, fs.ErrExist) { // another process was first
		k, err = LoadServerKey(path)
		return k, false, err
	}
	return k, err == nil, err
}

// loadMeshKey reads the file of the secret that sibling relays share.
func loadMeshKey(path string) (key.Mesh, error) {
	if path == "" {
		return key.Mesh{}, nil
	}
	b, err := readSmall(path)
	if err != nil {
		return key.Mesh{}, fmt.Errorf("read the mesh key: %w; hint: check --mesh-key-file, and that the user that runs detour may read it", err)
	}
	m, err := key.ParseMesh(strings.TrimSpace(string(b)))
	if err == nil && m.IsZero() {
		err = errors.New("mesh key is all zero")
	}
	if err != nil {
		return key.Mesh{}, fmt.Errorf("mesh key file %s: %w; hint: make one with `openssl rand -hex 32`, the same on all relays of the region", path, err)
	}
	return m, nil
}
