package proxyhttp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/whirlpool-proxy/whirlpool/core"
	"github.com/whirlpool-proxy/whirlpool/core/executor"
	"github.com/whirlpool-proxy/whirlpool/core/verdict"
)

func TestCertificateCode(t *testing.T) {
	wrapped := func(err error) error { return &tls.CertificateVerificationError{Err: err} }
	for _, c := range []struct {
		cause core.Cause
		err   error
		want  string
	}{
		{verdict.TargetCertificate, wrapped(x509.UnknownAuthorityError{}), "target_certificate_unknown_authority"},
		{verdict.TargetCertificate, wrapped(x509.HostnameError{Certificate: &x509.Certificate{}}),
			"target_certificate_wrong_host"},
		{verdict.TargetCertificate, wrapped(x509.CertificateInvalidError{Reason: x509.Expired}),
			"target_certificate_expired"},
		{verdict.TargetCertificate, wrapped(x509.CertificateInvalidError{Reason: x509.NotAuthorizedToSign}),
			"target_certificate_invalid"},
		{verdict.TargetCertificate, nil, "other"},
		{verdict.ProxyTLSFailed, wrapped(x509.UnknownAuthorityError{}), "other"},
		{verdict.TunnelBroke, errors.New("x"), "other"},
	} {
		r := &executor.Refusal{LastOutcome: core.Outcome{Cause: c.cause, Err: c.err}}
		require.Equal(t, c.want, CertificateCode(r, "other"))
	}
}
