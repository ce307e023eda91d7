package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	pinYears    = 10
	pinBackdate = 30 * 24 * time.Hour // for clients whose clocks are late
	neutralName = "server"            // the common name when no configured name will do
	maxCN       = 64                  // characters in a common name (RFC 5280, upper bounds)
)

// makePin returns a new pin certificate and its key as PEM.
func makePin(names []string, now time.Time) (certPEM, keyPEM []byte, err error) {
	who, err := parseNames(names)
	if err != nil {
		return nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key for the pin certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("make a serial number for the pin certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: who.common},
		NotBefore:             now.Add(-pinBackdate),
		NotAfter:              pinEnd(now),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:              who.dns,
		IPAddresses:           who.ips,
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, nil, fmt.Errorf("make the pin certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key of the pin certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: certDER}),
		pem.EncodeToMemory(&pem.Block{Type: pemPrivateKey, Bytes: keyDER}), nil
}

// pinEnd counts the ten years from no earlier than this code was written. A
// small machine without a battery may first start in 1970, and must not make a
// certificate that has expired as soon as its clock is set.
func pinEnd(now time.Time) time.Time {
	if written := time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC); now.Before(written) {
		now = written
	}
	return now.AddDate(pinYears, 0, 0)
}

// subject is whom a new certificate is for.
type subject struct {
	common string
	dns    []string // lower case
	ips    []net.IP
}

// parseNames sorts names into DNS names and addresses, each once, and picks
// the first as the common name, unless it is too long or would make clients
// take the certificate for the meta certificate.
func parseNames(names []string) (subject, error) {
	who := subject{common: neutralName}
	seen := make(map[string]bool, len(names))
	for i, given := range names {
		ip, err := netip.ParseAddr(given)
		name := strings.ToLower(strings.TrimSuffix(given, "."))
		switch {
		case err == nil && ip.Zone() != "":
			return subject{}, fault(fmt.Sprintf("make the pin certificate: address %q has a zone", given), "leave out the zone and its % sign")
		case err == nil:
			name = ip.Unmap().String()
		case !validDNSName(name):
			return subject{}, fault(fmt.Sprintf("make the pin certificate: %q is neither a DNS name nor an IP address", given),
				"give a name such as relay.example.com (in its xn-- form if it is not ASCII) or a plain IP address")
		}
		if i == 0 && len(name) <= maxCN && !strings.HasPrefix(name, metaPrefix) {
			who.common = name
		}
		switch {
		case seen[name]:
		case err == nil:
			who.ips = append(who.ips, ip.Unmap().AsSlice())
		default:
			who.dns = append(who.dns, name)
		}
		seen[name] = true
	}
	return who, nil
}

// validDNSName takes lower-case names of at most 253 bytes with labels of 1 to
// 63, the first of which may be "*". A last label of digits alone is refused:
// such a name is a mistyped IPv4 address.
func validDNSName(name string) bool {
	labels := strings.Split(strings.TrimPrefix(name, "*."), ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(name) <= 253 && strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// placePair writes both files so that whoever looks sees nothing, or the key
// alone for a moment, or both whole. Everything that is likely to fail, such
// as a full disk, comes before the first file has its name; and if something
// fails later, the files that this call placed are taken away again. The caller holds
// the lock and has seen that neither file exists.
func placePair(certFile, keyFile string, certPEM, keyPEM []byte, likeCert, likeKey fs.FileInfo) (err error) {
	key, err := stage(keyFile, keyPEM, 0o600, likeKey)
	if err != nil {
		return err
	}
	defer os.Remove(key) // fails once it is renamed, as it should
	cert, err := stage(certFile, certPEM, 0o644, likeCert)
	if err != nil {
		return err
	}
	defer os.Remove(cert)

	var placed []string
	defer func() {
		if err == nil {
			return
		}
		for _, path := range slices.Backward(placed) {
			os.Remove(path)
		}
	}()
	for _, move := range [][2]string{{key, keyFile}, {cert, certFile}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			return err
		}
		placed = append(placed, move[1])
		if err := syncDir(filepath.Dir(move[1])); err != nil {
			return err
		}
	}
	return nil
}

// stage writes data to a new file beside path, down to the disk, and returns
// the new file's name. It belongs to the owner of like, if that is not nil.
func stage(path string, data []byte, mode os.FileMode, like fs.FileInfo) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	giveOwner(f, like)
	if err := f.Chmod(mode); err != nil {
		return "", err
	}
	return f.Name(), f.Sync()
}
