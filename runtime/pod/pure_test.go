package pod

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestExpand(t *testing.T) {
	vars := map[string]string{"A": "1", "EMPTY": "", "LOOP": "$(A)"}
	for in, want := range map[string]string{
		"$(A)": "1", "x$(A)y": "x1y", "$$(A)": "$(A)", "$$$(A)": "$1", "$(B)": "$(B)", "$(EMPTY)": "", "$(LOOP)": "$(A)",
		"$": "$", "$$": "$", "a$": "a$", "$(A": "$(A", "$x": "$x", "": "", "$()": "$()", "$(A)$(A)": "11",
	} {
		if got := expand(in, vars); got != want {
			t.Errorf("expand(%q) = %q, want %q", in, got, want)
		}
	}
}

type objects map[string]map[string]string

func (o objects) ConfigMap(_ context.Context, _, name string) (*corev1.ConfigMap, error) {
	data, ok := o[name]
	if !ok {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
	}
	return &corev1.ConfigMap{Data: data}, nil
}

func (o objects) Secret(_ context.Context, _, name string) (*corev1.Secret, error) {
	if data, ok := o["secret/"+name]; ok {
		secret := &corev1.Secret{Data: map[string][]byte{}}
		for k, v := range data {
			secret.Data[k] = []byte(v)
		}
		return secret, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func (o objects) Token(context.Context, *corev1.Pod, *corev1.ServiceAccountTokenProjection) (string, error) {
	return "token", nil
}

func (o objects) Claimed(_ context.Context, _ *corev1.Pod, name string) (*corev1.PersistentVolume, error) {
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "persistentvolumeclaims"}, name)
}

func service(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func TestEnvironment(t *testing.T) {
	yes := true
	c := &corev1.Container{Name: "c",
		EnvFrom: []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "absent"}, Optional: &yes}}},
		Env: []corev1.EnvVar{{Name: "X", Value: "$(P_k)/$(MY_WEB_SERVICE_HOST)"}, {Name: "MY_WEB_SERVICE_PORT", Value: "mine"},
			{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu", Divisor: resource.MustParse("1m")}}},
			{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}}},
			{Name: "L", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['a']"}}}},
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("250m")}}}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{*c}}}
	s := &sources{ctx: context.Background(), pod: pod, objects: objects{"m": {"k": "v"}}, allocatable: corev1.ResourceList{"memory": resource.MustParse("3Mi")},
		services: func(string) []*corev1.Service {
			return []*corev1.Service{service("ns", "my-web", "10.0.0.1", corev1.ServicePort{Name: "http", Port: 80}), service("ns", "headless", "None", corev1.ServicePort{Port: 1}), service("default", "kubernetes", "10.0.0.9", corev1.ServicePort{Name: "https", Port: 443, Protocol: "TCP"})}
		}}
	got, err := s.environment(c)
	if err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]string{"P_k": "v", "X": "v/10.0.0.1", "MY_WEB_SERVICE_PORT": "mine", "CPU": "250", "MEM": "3", "L": "b", "MY_WEB_PORT": "tcp://10.0.0.1:80", "MY_WEB_PORT_80_TCP_ADDR": "10.0.0.1",
		"MY_WEB_SERVICE_PORT_HTTP": "80", "KUBERNETES_SERVICE_HOST": "10.0.0.9", "KUBERNETES_SERVICE_PORT_HTTPS": "443"} {
		if got[k] != want {
			t.Errorf("%s = %q, want %q", k, got[k], want)
		}
	}
	if _, ok := got["HEADLESS_SERVICE_HOST"]; ok {
		t.Error("a headless Service has variables")
	}
	c.Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "m"}, Key: "no"}}}}
	if _, err := s.environment(c); err == nil || err.Error() != "couldn't find key no in ConfigMap ns/m" {
		t.Errorf("missing key: %v", err)
	}
}

func TestResolvConf(t *testing.T) {
	host := parseResolver([]byte("# x\nnameserver 1.1.1.1\nsearch example.org\noptions ndots:2 timeout:1\n"))
	dns := DNS{Servers: []netip.Addr{netip.MustParseAddr("10.43.0.10")}, Domain: "cluster.local"}
	five := "1"
	for _, tc := range []struct {
		name string
		spec corev1.PodSpec
		want string
	}{
		{"ClusterFirst", corev1.PodSpec{}, "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.43.0.10\noptions ndots:5 timeout:1\n"},
		{"host network", corev1.PodSpec{HostNetwork: true}, "search example.org\nnameserver 1.1.1.1\noptions ndots:2 timeout:1\n"},
		{"Default", corev1.PodSpec{DNSPolicy: corev1.DNSDefault}, "search example.org\nnameserver 1.1.1.1\noptions ndots:2 timeout:1\n"},
		{"None", corev1.PodSpec{DNSPolicy: corev1.DNSNone, DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"9.9.9.9"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &five}, {Name: "edns0"}}}},
			"search a.b\nnameserver 9.9.9.9\noptions ndots:1 edns0\n"},
	} {
		if got := resolvConf(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: tc.spec}, dns, host); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, tc.want)
		}
	}
}

func TestAtomicVolume(t *testing.T) {
	dir := t.TempDir()
	list := func() string {
		var names []string
		_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, _ error) error {
			rel, _ := filepath.Rel(dir, p)
			if !strings.HasPrefix(rel, ".") {
				names = append(names, rel)
			}
			return nil
		})
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	write := func(files map[string]string) string {
		p := payload{}
		for k, v := range files {
			if err := p.add(k, []byte(v), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeAtomically(dir, p, nil); err != nil {
			t.Fatal(err)
		}
		to, _ := os.Readlink(filepath.Join(dir, dataLink))
		return to
	}
	first := write(map[string]string{"a": "1", "d/b": "2"})
	if got := list(); got != "a d" {
		t.Errorf("holds %s", got)
	}
	if again := write(map[string]string{"a": "1", "d/b": "2"}); again != first {
		t.Error("equal contents were written again")
	}
	second := write(map[string]string{"a": "3"})
	b, err := os.ReadFile(filepath.Join(dir, "a"))
	if got := list(); got != "a" || string(b) != "3" || err != nil || second == first {
		t.Errorf("holds %s, a = %q, %v", got, b, err)
	}
	if old, err := os.Stat(filepath.Join(dir, first)); err == nil {
		t.Errorf("%v was left", old.Name())
	}
	for _, bad := range []string{"", "/abs", "../up", "a/../../up", "..data"} {
		if (payload{}).add(bad, nil, 0) == nil {
			t.Errorf("path %q was accepted", bad)
		}
	}
}

func TestResolveUser(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0:::\nweb:x:33:34:::\n"), 0o644)
	_ = os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nextra:x:50:web,other\n"), 0o644)
	n := func(i int64) *int64 { return &i }
	yes := true
	for _, tc := range []struct {
		image string
		sc    *corev1.SecurityContext
		want  string
	}{
		{"", nil, "0:0 []"}, {"web", nil, "33:34 [50]"}, {"33", nil, "33:34 [50]"}, {"web:extra", nil, "33:50 [50]"}, {"77", nil, "77:0 []"}, {"77:88", nil, "77:88 []"},
		{"nobody", nil, "unable to find user nobody: no matching entries in passwd file"},
		{"web", &corev1.SecurityContext{RunAsUser: n(9)}, "9:0 []"}, {"web", &corev1.SecurityContext{RunAsGroup: n(9)}, "33:9 [50]"},
		{"", &corev1.SecurityContext{RunAsNonRoot: &yes}, `container has runAsNonRoot and image will run as root (pod: "p_ns(u)", container: c)`}, {"33", &corev1.SecurityContext{RunAsNonRoot: &yes}, "33:34 [50]"}, {"web", &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: n(9)}, "9:0 []"},
		{"web", &corev1.SecurityContext{RunAsNonRoot: &yes}, `container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root (pod: "p_ns(u)", container: c)`},
		{"web", &corev1.SecurityContext{RunAsNonRoot: &yes, RunAsUser: n(0)}, `container's runAsUser breaks non-root policy (pod: "p_ns(u)", container: c)`},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
		u, err := resolveUser(pod, &corev1.Container{Name: "c", SecurityContext: tc.sc}, tc.image, root)
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = fmt.Sprintf("%d:%d %v", u.UID, u.GID, u.AdditionalGroups)
		}
		if got != tc.want {
			t.Errorf("%q: %s, want %s", tc.image, got, tc.want)
		}
	}
}

func TestCapabilities(t *testing.T) {
	base := []string{"CAP_CHOWN", "CAP_KILL"}
	for _, tc := range []struct {
		add, drop []corev1.Capability
		want      string
	}{
		{nil, nil, "CAP_CHOWN CAP_KILL"},
		{[]corev1.Capability{"NET_ADMIN", "cap_sys_time"}, []corev1.Capability{"KILL"}, "CAP_CHOWN CAP_NET_ADMIN CAP_SYS_TIME"},
		{[]corev1.Capability{"NET_BIND_SERVICE"}, []corev1.Capability{"ALL"}, "CAP_NET_BIND_SERVICE"},
		{[]corev1.Capability{"ALL"}, []corev1.Capability{"SYS_ADMIN"}, strings.Join(slices.DeleteFunc(slices.Clone(grantable()), func(s string) bool { return s == "CAP_SYS_ADMIN" }), " ")},
	} {
		if got := strings.Join(capabilities(base, &corev1.Capabilities{Add: tc.add, Drop: tc.drop}), " "); got != tc.want {
			t.Errorf("+%v -%v: %s", tc.add, tc.drop, got)
		}
	}
}

func (objects) RuntimeHandler(context.Context, string) (string, error) { return "", nil }
