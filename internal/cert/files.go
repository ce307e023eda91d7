package cert

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// maxFileSize bounds what is read of a certificate or key file, in bytes. A
// long chain is some 10 KB.
const maxFileSize = 1 << 20

const (
	pemCertificate  = "CERTIFICATE"
	pemPrivateKey   = "PRIVATE KEY" // PKCS#8; "RSA " and "EC " in front name the older forms
	pemEncryptedKey = "ENCRYPTED PRIVATE KEY"
)

// LoadFiles reads a PEM chain, leaf first, and the PEM private key of the leaf
// (PKCS#8, PKCS#1 or SEC 1). Both may be in one file. It refuses, with the next
// step in the error, what no client could use: files that cannot be read, are
// larger than 1 MiB or damaged, an encrypted key, a key of another
// certificate, and a leaf that has expired at now. One that is not valid yet is
// taken: see Early.
func LoadFiles(certFile, keyFile string, now time.Time) (*Certificate, error) {
	certPEM, keyPEM, err := readPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return takeFiles(certFile, keyFile, certPEM, keyPEM, now)
}

// takeFiles is LoadFiles after the reading.
func takeFiles(certFile, keyFile string, certPEM, keyPEM []byte, now time.Time) (*Certificate, error) {
	c, err := parsePair(certFile, keyFile, certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	c.mode = ModeFiles
	if err := c.checkEnd(now, "renew it and give --cert and --key the new files"); err != nil {
		return nil, err
	}
	return c, nil
}

// ParsePEM is LoadFiles for a pair that is held in memory because an ACME server
// issued it. Name is what errors and figures call it by, such as its domain. Its
// dates are not judged: clients go by their own clocks, and nothing that could be
// served in its place is better.
func ParsePEM(name string, certPEM, keyPEM []byte) (*Certificate, error) {
	c, err := parsePair(name, name, certPEM, keyPEM)
	if h, ok := errors.AsType[*hinted](err); ok {
		err = fault(h.what, "it came from an ACME server: let it be issued anew")
	}
	if err != nil {
		return nil, err
	}
	c.mode = ModeACME
	return c, nil
}

func readPair(certFile, keyFile string) (certPEM, keyPEM []byte, err error) {
	if certPEM, err = readFile(certFile, "certificate", "--cert"); err != nil {
		return nil, nil, err
	}
	if keyPEM, err = readFile(keyFile, "key", "--key"); err != nil {
		return nil, nil, err
	}
	return certPEM, keyPEM, nil
}

// checkEnd refuses a leaf that has expired at now; renew is the hint.
func (c *Certificate) checkEnd(now time.Time, renew string) error {
	if !c.Expired(now) {
		return nil
	}
	return fault(fmt.Sprintf("certificate %s expired at %s", c.certFile, stamp(c.leaf.NotAfter)),
		fmt.Sprintf("%s (this machine's clock says %s)", renew, stamp(now)))
}

// checkBeginning refuses a leaf that is not valid yet at now.
func (c *Certificate) checkBeginning(now time.Time) error {
	if !c.Early(now) {
		return nil
	}
	return fault(fmt.Sprintf("certificate %s is not valid before %s", c.certFile, stamp(c.leaf.NotBefore)),
		fmt.Sprintf("this machine's clock says %s; set it, or wait", stamp(now)))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// readFile reads a regular file of at most maxFileSize bytes. What and flag
// name its role in errors.
func readFile(path, what, flag string) ([]byte, error) {
	if path == "" {
		return nil, fault(fmt.Sprintf("read %s file: no path is given", what), "set "+flag)
	}
	// Opening a pipe waits for a writer, so look before opening.
	info, err := os.Stat(path)
	if err != nil {
		return nil, readFault(what, flag, path, err)
	}
	switch {
	case info.IsDir():
		return nil, fault(fmt.Sprintf("read %s file %s: it is a directory", what, path), fmt.Sprintf("name the %s file in it with %s", what, flag))
	case !info.Mode().IsRegular():
		return nil, fault(fmt.Sprintf("read %s file %s: it is not a regular file", what, path), "give "+flag+" a file on disk, as it may be read again")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|nonblock, 0) // it may be a pipe by now
	if err != nil {
		return nil, readFault(what, flag, path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	switch {
	case err != nil:
		return nil, readFault(what, flag, path, err)
	case len(data) > maxFileSize:
		return nil, fault(fmt.Sprintf("read %s file %s: it is larger than %d bytes", what, path, maxFileSize), fmt.Sprintf("check that %s names a PEM %s", flag, what))
	}
	return data, nil
}

// readFault adds the next step to an error of the operating system.
func readFault(what, flag, path string, err error) error {
	hint := "check the disk and the path given by " + flag
	switch {
	case errors.Is(err, fs.ErrNotExist):
		hint = "check the path given by " + flag
	case errors.Is(err, fs.ErrPermission):
		hint = "let the user that runs detour read the file and enter each directory above it"
	}
	var inPath *fs.PathError
	if errors.As(err, &inPath) {
		err = inPath.Err // the path is in our own text already
	}
	return fault(fmt.Sprintf("read %s file %s: %v", what, path, err), hint)
}

// parsePair turns the contents of the two files into a Certificate. It reads
// neither files nor clock; the names are for errors.
func parsePair(certFile, keyFile string, certPEM, keyPEM []byte) (*Certificate, error) {
	chain, err := parseChain(certFile, certPEM)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyFile, keyPEM)
	if err != nil {
		return nil, err
	}
	if i := indexOf(key.Public(), chain); i > 0 {
		return nil, fault(fmt.Sprintf("certificate file %s: key %s belongs to certificate %d in it, not to the first", certFile, keyFile, i+1),
			"put the relay's own certificate first and its issuers after it")
	} else if i < 0 {
		return nil, fault(fmt.Sprintf("key file %s: it is not the key of certificate %s", keyFile, certFile),
			"name the two files that were issued together")
	}
	c := newCertificate(chain, key)
	c.certFile, c.keyFile = certFile, keyFile
	if err := c.checkCommonNames(chain); err != nil {
		return nil, err
	}
	return c, nil
}

// checkCommonNames refuses a chain in which clients would take a certificate
// for the meta certificate: a copy of one (a chain saved from a running relay
// holds it, perhaps with an old server key), or a leaf that a client with its
// pin would pass over.
func (c *Certificate) checkCommonNames(chain []*x509.Certificate) error {
	for i, link := range chain {
		digits, ok := strings.CutPrefix(link.Subject.CommonName, metaPrefix)
		if ok && (c.selfSigned || checkServerKey(digits) == nil) {
			return fault(fmt.Sprintf("certificate file %s: the common name of certificate %d begins with %q, which clients take for a relay's meta certificate",
				c.certFile, i+1, metaPrefix), "remove that certificate from the file; the relay adds its own")
		}
	}
	return nil
}

func parseChain(path string, data []byte) ([]*x509.Certificate, error) {
	blocks, err := decodePEM(path, "certificate", data)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, b := range blocks {
		if b.Type != pemCertificate {
			continue
		}
		c, err := x509.ParseCertificate(b.Bytes)
		if err != nil {
			return nil, fault(fmt.Sprintf("certificate file %s: parse certificate %d: %v", path, len(chain)+1, err), "get the file anew from whoever issued it")
		}
		chain = append(chain, c)
	}
	if len(chain) > 0 {
		return chain, nil
	}
	if isKey(blocks[0].Type) {
		return nil, fault(fmt.Sprintf("certificate file %s: it holds a private key and no certificate", path), "--cert and --key may be swapped")
	}
	return nil, fault(fmt.Sprintf("certificate file %s: it holds a PEM block %q and no certificate", path, blocks[0].Type),
		"give --cert the file with BEGIN CERTIFICATE")
}

func parseKey(path string, data []byte) (crypto.Signer, error) {
	blocks, err := decodePEM(path, "key", data)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		switch {
		case !isKey(b.Type): // certificates of a bundle, or EC PARAMETERS
			continue
		case b.Type == pemEncryptedKey, strings.Contains(b.Headers["Proc-Type"], "ENCRYPTED"):
			return nil, fault(fmt.Sprintf("key file %s: the key is encrypted, and a relay has nobody to ask for the passphrase", path),
				"decrypt it with: openssl pkey -in "+path+" -out plain.key (then chmod 600 it), and give --key that file")
		}
		key, err := parseKeyDER(b.Bytes)
		if err != nil {
			return nil, fault(fmt.Sprintf("key file %s: parse the %s: %v", path, strings.ToLower(b.Type), err),
				"use an ECDSA, RSA or Ed25519 key as PKCS#8, PKCS#1 or SEC 1 PEM")
		}
		return key, nil
	}
	if blocks[0].Type == pemCertificate {
		return nil, fault(fmt.Sprintf("key file %s: it holds a certificate and no private key", path), "--cert and --key may be swapped")
	}
	return nil, fault(fmt.Sprintf("key file %s: it holds a PEM block %q and no private key", path, blocks[0].Type),
		"give --key the file with BEGIN PRIVATE KEY")
}

func isKey(pemType string) bool { return strings.HasSuffix(pemType, pemPrivateKey) }

// parseKeyDER tries the three encodings in turn and not by the block's label,
// because tools have mixed up the labels.
func parseKeyDER(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a %T cannot sign", key)
	}
	return signer, nil
}

// indexOf returns which certificate of the chain is for the public key, or -1.
func indexOf(public crypto.PublicKey, chain []*x509.Certificate) int {
	key, ok := public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return -1
	}
	for i, c := range chain {
		if key.Equal(c.PublicKey) {
			return i
		}
	}
	return -1
}

// decodePEM returns every block of the file, at least one. A block that does
// not decode is an error: leaving out what a half-written file breaks would
// serve a shorter chain without a word.
func decodePEM(path, what string, data []byte) ([]*pem.Block, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a byte order mark hides the first block
	size, begun := len(data), bytes.Count(data, []byte("-----BEGIN "))
	var blocks []*pem.Block
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			break
		}
		blocks = append(blocks, b)
	}
	switch {
	case size == 0:
		return nil, fault(fmt.Sprintf("%s file %s: it is empty", what, path),
			"write the file again; what made it may have been interrupted, or the disk was full")
	case begun == 0:
		return nil, fault(fmt.Sprintf("%s file %s: it is not PEM", what, path),
			"the file must be text with a line -----BEGIN ...-----; turn DER into it with openssl x509 or openssl pkey, and -inform der")
	case len(blocks) < begun:
		return nil, fault(fmt.Sprintf("%s file %s: %d of its %d PEM blocks are damaged or cut short", what, path, begun-len(blocks), begun),
			"write the file again; what made it may have been interrupted")
	}
	return blocks, nil
}
