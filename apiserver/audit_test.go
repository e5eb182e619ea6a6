package apiserver

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"kontiki/raftstore/raftstoretest"
)

// TestAuditLog wants of each request what the policy says, and nothing of Secrets.
func TestAuditLog(t *testing.T) {
	dir := t.TempDir()
	a := DefaultAudit()
	a.PolicyFile, a.Path = filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "log", "audit.log")
	policy := `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  users: ["system:apiserver"]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: Request
  verbs: [create]
- level: None
`
	if err := os.WriteFile(a.PolicyFile, []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServer(t, raftstoretest.New(t), func(c *Config) { c.Audit = a })
	c := clientOf(t, s, admin)
	defaultNamespace(t, c)
	for _, err := range []error{
		second(c.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "hidden"}}, metav1.CreateOptions{})),
		second(c.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}, Data: map[string]string{"k": "shown"}}, metav1.CreateOptions{})),
		second(c.CoreV1().ConfigMaps("default").Get(t.Context(), "m", metav1.GetOptions{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(a.Path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("hidden")) {
		t.Error("the log tells what a Secret holds")
	}
	seen := map[string]auditv1.Event{}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.ObjectRef != nil {
			seen[e.Verb+" "+e.ObjectRef.Resource+"/"+e.ObjectRef.Name] = e
		}
	}
	if e := seen["create secrets/s"]; e.Level != auditv1.LevelMetadata || e.User.Username != "admin" || e.RequestObject != nil || e.ResponseStatus.Code != 201 {
		t.Errorf("%+v", e)
	}
	if e := seen["create configmaps/m"]; e.Level != auditv1.LevelRequest || e.RequestObject == nil || !bytes.Contains(e.RequestObject.Raw, []byte("shown")) {
		t.Errorf("%+v", e)
	}
	if _, ok := seen["get configmaps/m"]; ok {
		t.Error("a read was noted against the policy")
	}
}

func TestAuditOptionsThatCannotBe(t *testing.T) {
	for want, change := range map[string]func(*Audit){
		"--audit-policy-file needs --audit-log-path":       func(a *Audit) { a.PolicyFile = "p" },
		"--audit-log-path notes nothing without":           func(a *Audit) { a.Path = "-" },
		"invalid audit log mode slow":                      func(a *Audit) { a.PolicyFile, a.Path, a.Mode = "p", "-", "slow" },
		"--audit-log-maxage -1 can't be a negative number": func(a *Audit) { a.PolicyFile, a.Path, a.MaxAge = "p", "-", -1 },
	} {
		a := DefaultAudit()
		change(&a)
		if err := a.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", a, err, want)
		}
	}
	if err := (Audit{}).Validate(); err != nil {
		t.Error(err)
	}
}
