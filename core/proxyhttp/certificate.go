package proxyhttp

import (
	"crypto/x509"
	"errors"

	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

// CertificateCode returns the code of the error response to an intercepted request. If the request was refused because
// of the target's certificate, this code names the fault of the certificate. Otherwise CertificateCode returns the code
// that the caller has passed.
func CertificateCode(r *executor.Refusal, code string) string {
	if r.LastOutcome.Cause != verdict.TargetCertificate || r.LastOutcome.Err == nil {
		return code
	}
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(r.LastOutcome.Err, &authority):
		return "target_certificate_unknown_authority"
	case errors.As(r.LastOutcome.Err, &name):
		return "target_certificate_wrong_host"
	case errors.As(r.LastOutcome.Err, &invalid) && invalid.Reason == x509.Expired:
		return "target_certificate_expired"
	}
	return "target_certificate_invalid"
}
