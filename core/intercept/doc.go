// Package intercept makes certificates for interception. To intercept a tunnel, the gateway makes the TLS handshake
// with the client in place of the target. The certificate of this handshake is signed by the gateway's own authority
// (docs/interception.md). Create makes such an authority, Load reads its files, and Authority.Certificate signs the
// certificates of targets.
package intercept
