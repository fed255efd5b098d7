package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/whirlpool-proxy/whirlpool/core/intercept"
)

// The default files of the authority for interception.
const (
	defaultCAFile  = "whirlpool-ca.pem"
	defaultKeyFile = "whirlpool-ca.key"
)

func caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "ca", Short: "Make and show the authority for interception of HTTPS",
		Long: `Make and show the authority with which the gateway intercepts HTTPS for the
hosts of rules with intercept = true (docs/interception.md).`,
	}
	cmd.AddCommand(caCreateCommand(), caShowCommand(), caTrustCommand())
	return cmd
}

func caCreateCommand() *cobra.Command {
	var o intercept.Options
	var cert, key string
	var days int
	asJSON := false
	cmd := &cobra.Command{
		Use: "create", Short: "Make an authority: a certificate, and its key in a file with mode 0600",
		Long: `Make an authority: a certificate, and its key (ECDSA P-256) in a file with mode
0600. Existing files are not overwritten. Clients that trust the certificate
accept every certificate that the key signs, unless --constrain limits it to
domains (with their subdomains), addresses or networks.`,
		Example: "  whirlpool ca create\n  whirlpool ca create --constrain example.com --constrain 10.0.0.0/8",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Validity = time.Duration(days) * 24 * time.Hour
			if days < 1 || days > 36500 {
				return usageErrorf("--days must be 1 to 36500")
			}
			certPEM, keyPEM, err := intercept.Create(o, time.Now())
			if err != nil {
				return usageError{err}
			}
			if err := writeAuthority(cert, certPEM, key, keyPEM); err != nil {
				return err
			}
			parsed, err := intercept.Parse(certPEM)
			if err != nil {
				return err
			}
			if asJSON {
				v := viewOfAuthority(cert, parsed, certPEM)
				v.KeyFile = key
				return printJSON(cmd.OutOrStdout(), v)
			}
			host := "example.com"
			if domains := parsed.PermittedDNSDomains; len(domains) > 0 {
				host = domains[0]
			}
			fmt.Fprintf(cmd.OutOrStdout(), `%s has the certificate, %s its key. Keep the key secret.

%s
Add to the configuration:

[intercept]
ca_file = %q
key_file = %q

[[rules]]
when = { host = [%q, %q] }
then = { intercept = true }

Then make clients trust the certificate: whirlpool ca trust --ca-file %s
`, cert, key, describeCertificate(parsed), absolutePath(cert), absolutePath(key), host, "*."+host, cert)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&cert, "ca-file", defaultCAFile, "`FILE` of the certificate")
	f.StringVar(&key, "key-file", defaultKeyFile, "`FILE` of the key")
	f.StringVar(&o.Name, "name", "", "`NAME` with which browsers list the authority")
	f.IntVar(&days, "days", int(intercept.DefaultValidity/(24*time.Hour)), "`DAYS` for which the authority is valid")
	f.StringArrayVar(&o.Constraints, "constrain", nil,
		"`DOMAIN`, address or network to which the authority is limited; may be repeated")
	f.BoolVar(&asJSON, "json", false, "print JSON, without the key")
	return cmd
}

// writeAuthority writes the two files of an authority, or none of them if one exists.
func writeAuthority(cert string, certPEM []byte, key string, keyPEM []byte) error {
	if _, err := os.Lstat(cert); err == nil {
		return fmt.Errorf("%s exists; remove it, or name another file with --ca-file", cert)
	}
	if err := writeNewFile(key, keyPEM, 0o600); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s exists; remove it, or name another file with --key-file", key)
		}
		return err
	}
	if err := writeNewFile(cert, certPEM, 0o644); err != nil {
		os.Remove(key)
		return err
	}
	return nil
}

// writeNewFile writes a new file. If the file exists already, it returns fs.ErrExist.
func writeNewFile(path string, data []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

func absolutePath(path string) string {
	if full, err := filepath.Abs(path); err == nil {
		return full
	}
	return path
}

// describeCertificate returns the properties of an authority's certificate, one per line.
func describeCertificate(c *x509.Certificate) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Subject:     %s\nSHA-256:     %s\nValid:       %s to %s\n", c.Subject, intercept.Fingerprint(c),
		c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly))
	names := constraintsOf(c)
	constraintText := "none: the authority can sign for every name"
	if len(names) > 0 {
		constraintText = strings.Join(names, ", ")
	}
	fmt.Fprintf(&b, "Constraints: %s\n", constraintText)
	return b.String()
}

func constraintsOf(c *x509.Certificate) []string {
	names := append([]string{}, c.PermittedDNSDomains...)
	for _, network := range c.PermittedIPRanges {
		names = append(names, network.String())
	}
	return names
}

// authorityView is the JSON output of the commands `ca create` and `ca show`.
type authorityView struct {
	CAFile      string    `json:"ca_file"`
	KeyFile     string    `json:"key_file,omitempty"`
	Subject     string    `json:"subject"`
	SHA256      string    `json:"sha256"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Constraints []string  `json:"constraints"` // empty: the authority can sign for every name
	Certificate string    `json:"certificate"` // PEM
}

func viewOfAuthority(file string, c *x509.Certificate, certPEM []byte) authorityView {
	return authorityView{
		CAFile: file, Subject: c.Subject.String(), SHA256: intercept.Fingerprint(c), NotBefore: c.NotBefore.UTC(),
		NotAfter: c.NotAfter.UTC(), Constraints: constraintsOf(c), Certificate: string(certPEM),
	}
}

func caShowCommand() *cobra.Command {
	var file string
	asJSON := false
	cmd := &cobra.Command{
		Use: "show", Short: "Print the certificate of an authority, and its fingerprint",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cert, text, err := readAuthority(file)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), viewOfAuthority(file, cert, text))
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s%s", describeCertificate(cert), text)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&file, "ca-file", defaultCAFile, "`FILE` of the certificate")
	return cmd
}

// readAuthority reads the certificate of an authority, and returns it with its PEM form. Anything else in the file is
// left out of the PEM form.
func readAuthority(path string) (cert *x509.Certificate, certPEM []byte, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, usageError{err}
	}
	if cert, err = intercept.Parse(data); err != nil {
		return nil, nil, usageErrorf("%s: %w", path, err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
}

func caTrustCommand() *cobra.Command {
	var file string
	var install bool
	cmd := &cobra.Command{
		Use: "trust", Short: "Print how to make clients trust an authority",
		Long: `Print how to make clients trust an authority: the system, curl, Python, Node,
Java, Firefox and Chromium. With --install, add it to the authorities of this
system (Debian, Ubuntu), which needs root.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cert, certPEM, err := readAuthority(file)
			if err != nil {
				return err
			}
			if install {
				return installAuthority(cmd.OutOrStdout(), cert, certPEM, authorityStore{debianStore, updateCommand})
			}
			fmt.Fprint(cmd.OutOrStdout(), trustText(absolutePath(file), cert))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "ca-file", defaultCAFile, "`FILE` of the certificate")
	f.BoolVar(&install, "install", false, "add it to the authorities of this system (Debian, Ubuntu)")
	return cmd
}

// The folder in which Debian and Ubuntu keep additional authorities, and the command to run after a change in this
// folder.
const (
	debianStore   = "/usr/local/share/ca-certificates"
	updateCommand = "update-ca-certificates"
)

// authorityStore is a system's store of authorities: a folder, and the command to run after a change in this folder.
type authorityStore struct{ dir, update string }

// authorityFileName returns the name of the file that an authority gets in an authorityStore.
func authorityFileName(c *x509.Certificate) string {
	return "whirlpool-" + strings.ToLower(strings.ReplaceAll(intercept.Fingerprint(c), ":", ""))[:16] + ".crt"
}

// installAuthority adds an authority to a store, and prints how the user can remove the authority again.
func installAuthority(out io.Writer, cert *x509.Certificate, certPEM []byte, store authorityStore) error {
	if _, err := os.Stat(store.dir); err != nil {
		return fmt.Errorf("%s does not exist: is this Debian or Ubuntu with the package ca-certificates? "+
			"`whirlpool ca trust` prints other ways", store.dir)
	}
	path := filepath.Join(store.dir, authorityFileName(cert))
	if err := os.WriteFile(path, certPEM, 0o644); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w; run the command as root", err)
		}
		return err
	}
	update := exec.Command(store.update)
	var text bytes.Buffer
	update.Stdout, update.Stderr = &text, &text
	if err := update.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", store.update, err, strings.TrimSpace(text.String()))
	}
	fmt.Fprintf(out, `installed %s
To remove it: rm %s && %s --fresh
Programs with authorities of their own (Firefox, Chromium, Python, Node, Java) need more: whirlpool ca trust
`, path, path, store.update)
	return nil
}

// trustText returns instructions for making clients trust an authority. The parameter file is the path of the
// authority's certificate.
func trustText(file string, cert *x509.Certificate) string {
	return strings.NewReplacer("$FILE", file, "$NAME", authorityFileName(cert), "$CN", cert.Subject.CommonName).Replace(
		`The certificate: $FILE

System (Debian, Ubuntu; curl, wget, git, Go and others use it)
  sudo cp $FILE ` + debianStore + `/$NAME && sudo ` + updateCommand + `
  (or: sudo whirlpool ca trust --install --ca-file $FILE)
System (Fedora, RHEL)
  sudo cp $FILE /etc/pki/ca-trust/source/anchors/$NAME && sudo update-ca-trust
macOS
  sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain $FILE
Windows
  certutil -addstore Root $FILE

curl, once
  curl --cacert $FILE -x http://GATEWAY:8888 https://example.com/
Python: requests, and httpx (verify=ssl.create_default_context(cafile="$FILE"))
  export REQUESTS_CA_BUNDLE=$FILE
  export SSL_CERT_FILE=$FILE
  (these replace the usual authorities; to keep them: cat $(python3 -m certifi) $FILE >bundle.pem)
Node
  export NODE_EXTRA_CA_CERTS=$FILE
Java
  keytool -importcert -cacerts -storepass changeit -noprompt -alias whirlpool -file $FILE
Firefox
  Settings, Privacy & Security, Certificates, View Certificates, Authorities, Import; "identify websites".
  Or about:config: security.enterprise_roots.enabled = true, to use those of the system.
Chromium and Chrome on Linux (package libnss3-tools)
  certutil -d sql:$HOME/.pki/nssdb -A -t C,, -n "$CN" -i $FILE

A program with a fixed certificate (pinning) refuses every other one: give its host no rule with intercept.
`)
}
