package csr

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/controllers/plantest"
)

type input struct {
	Signer  string                    `json:"signer"`
	Name    string                    `json:"name"`
	Groups  []string                  `json:"groups"`
	DNS     []string                  `json:"dns"`
	IP      string                    `json:"ip"`
	Usages  []certificatesv1.KeyUsage `json:"usages"`
	Seconds *int32                    `json:"seconds"`
	Raw     string                    `json:"raw"`
	Is      map[string]string         `json:"is"` // conditions, and how long ago
	Age     string                    `json:"age"`
	Issued  bool                      `json:"issued"`
}

type output struct {
	Remove bool   `json:"remove,omitempty"`
	Sign   string `json:"sign,omitempty"` // for how long
	Fail   string `json:"fail,omitempty"`
	Again  string `json:"again,omitempty"`
}

func TestPlan(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ago := func(s string) time.Time {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		return now.Add(-d)
	}
	plantest.Run(t, func(in input) output {
		template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: in.Name, Organization: in.Groups}, DNSNames: in.DNS}
		if in.IP != "" {
			template.IPAddresses = []net.IP{net.ParseIP(in.IP)}
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		if err != nil {
			t.Fatal(err)
		}
		csr := &certificatesv1.CertificateSigningRequest{Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: in.Signer, Usages: in.Usages, ExpirationSeconds: in.Seconds,
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
		}}
		if in.Raw != "" {
			csr.Spec.Request = []byte(in.Raw)
		}
		csr.CreationTimestamp = metav1.NewTime(now)
		if in.Age != "" {
			csr.CreationTimestamp = metav1.NewTime(ago(in.Age))
		}
		for kind, since := range in.Is {
			csr.Status.Conditions = append(csr.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type: certificatesv1.RequestConditionType(kind), Status: corev1.ConditionTrue, LastUpdateTime: metav1.NewTime(ago(since)),
			})
		}
		if in.Issued {
			csr.Status.Certificate = []byte("anything")
		}
		a := plan(csr, now)
		out := output{Remove: a.remove}
		if a.sign != nil {
			out.Sign = a.sign.life.String()
		}
		if a.fail != nil {
			out.Fail = a.fail.Error()
		}
		if a.again > 0 {
			out.Again = a.again.String()
		}
		return out
	})
}
