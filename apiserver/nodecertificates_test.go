package apiserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/raftstore/raftstoretest"
)

// TestNodesAskForTheirOwnCertificates is NodeRestriction for requests of certificates,
// a node's own and those of its pods.
func TestNodesAskForTheirOwnCertificates(t *testing.T) {
	s := startServer(t, raftstoretest.New(t), withAccountKey(t))
	root, a := clientOf(t, s, admin), clientOf(t, s, nodeUser("a"))
	defaultNamespace(t, root)
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(name string) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name, Organization: []string{"system:nodes"}}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
	sign := func(signer, name string) error {
		return second(a.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
			Spec: certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Usages: usages,
				Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request(name)})},
		}, metav1.CreateOptions{}))
	}
	for _, signer := range []string{certificatesv1.KubeletServingSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName} {
		refused(t, sign(signer, "system:node:b"), "can only create a node CSR with CN=system:node:a")
		if err := sign(signer, "system:node:a"); err != nil {
			t.Error(err)
		}
	}
	if err := sign("example.com/one", "anybody"); err != nil {
		t.Error(err)
	}

	node, err := a.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account, err := root.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	asks := func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "cert", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{PodCertificate: &corev1.PodCertificateProjection{SignerName: "example.com/one", KeyType: "ECDSAP256", CredentialBundlePath: "bundle"}}},
		}}})
	}
	pod, elsewhere := mustCreatePod(t, root, simplePod("p", on("a"), asks)), mustCreatePod(t, root, simplePod("q", on("b"), asks))
	mirror := mustCreatePod(t, root, simplePod("m", on("a"), func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"} }))
	for _, c := range []struct {
		change func(*certificatesv1.PodCertificateRequestSpec)
		want   string
	}{
		{func(*certificatesv1.PodCertificateRequestSpec) {}, ""},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.NodeName = "b" }, `PodCertificateRequest.Spec.NodeName="b", which is not the requesting node "a"`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.NodeUID = "x" }, `names node UID "x", inconsistent with the running node`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.PodName = "none" }, `while retrieving pod "default/none" named in the PodCertificateRequest`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.PodUID = "x" }, `contains pod UID ("x") which differs from running pod`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.PodName, r.PodUID = "q", elsewhere.UID }, `pod "default/q" is not running on node "a" named in the PodCertificateRequest`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.PodName, r.PodUID = "m", mirror.UID }, `pod "default/m" is a mirror pod`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.ServiceAccountName = "x" }, `contains serviceAccountName ("x") that differs from running pod ("default")`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.ServiceAccountUID = "x" }, `names service account UID "x", which differs from the running service account`},
		{func(r *certificatesv1.PodCertificateRequestSpec) { r.SignerName = "example.com/two" }, `pod "default/p" does not mount a podCertificate projected volume for signer "example.com/two"`},
	} {
		r := &certificatesv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-"}, Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/one", PodName: "p", PodUID: pod.UID, ServiceAccountName: "default", ServiceAccountUID: account.UID,
			NodeName: "a", NodeUID: node.UID, StubPKCS10Request: request(""),
		}}
		c.change(&r.Spec)
		_, err := a.CertificatesV1().PodCertificateRequests("default").Create(ctx, r, metav1.CreateOptions{})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}
