package apiserver

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"kontiki/raftstore/raftstoretest"
)

const (
	yamlType     = runtime.ContentTypeYAML
	jsonType     = runtime.ContentTypeJSON
	protobufType = runtime.ContentTypeProtobuf
)

// post sends a ConfigMap as it may come from anybody, and keeps nothing.
func post(t *testing.T, s *Server, contentType string, body []byte) (int, string) {
	t.Helper()
	client := &http.Client{Transport: s.Client(admin).Transport}
	url := "http://kontiki.invalid/api/v1/namespaces/default/configmaps?dryRun=All"
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("Accept", jsonType)
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer bytes.Buffer
	if _, err := answer.ReadFrom(resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.String()
}

// TestHostileBodies wants upstream's answers to what is too large, too deep or
// too much.
func TestHostileBodies(t *testing.T) {
	s := startServer(t, raftstoretest.New(t))
	defaultNamespace(t, clientOf(t, s, admin))
	const head = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},`
	var keys strings.Builder
	for i := range 10_000 { // the library's managed fields take quadratic time
		fmt.Fprintf(&keys, `"k%d":"",`, i)
	}
	million := strings.Builder{}
	for i := range 1_000_000 {
		fmt.Fprintf(&million, `"k%d":"",`, i)
	}
	for _, c := range []struct {
		name, contentType, body string
		want                    int
	}{
		{"3 MB", jsonType, head + `"data":{"k":"` + strings.Repeat("x", 3<<20) + `"}}`, http.StatusRequestEntityTooLarge},
		{"3 MB of YAML", yamlType, "data: {k: " + strings.Repeat("x", 3<<20) + "}", http.StatusRequestEntityTooLarge},
		{"10,000 deep", jsonType, head + `"data":` + strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000) + "}", http.StatusBadRequest},
		{"10,000 deep, unknown", jsonType, head + `"other":` + strings.Repeat(`[`, 10_001) + strings.Repeat("]", 10_001) + "}", http.StatusBadRequest},
		{"10,000 deep in YAML", yamlType, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: " + strings.Repeat("[", 10_000), http.StatusBadRequest},
		{"YAML that multiplies", yamlType, "a: &a [x,x,x,x,x,x,x,x,x]\n" + bomb(), http.StatusBadRequest},
		{"many keys", jsonType, head + `"data":{` + keys.String() + `"a/b":""}}`, http.StatusUnprocessableEntity},
		{"a million keys", jsonType, head + `"data":{` + million.String() + `"k":""}}`, http.StatusRequestEntityTooLarge},
		{"a million keys in YAML", yamlType, head + `"data":{` + million.String() + `"k":""}}`, http.StatusRequestEntityTooLarge},
		{"nothing", jsonType, "", http.StatusBadRequest},
		{"no protobuf", protobufType, "k8s\x00\xff\xff\xff\xff", http.StatusBadRequest},
	} {
		got, answer := post(t, s, c.contentType, []byte(c.body))
		if got != c.want || !strings.Contains(answer, `"kind":"Status"`) {
			t.Errorf("%s: %d, want %d: %.300s", c.name, got, c.want, answer)
		}
	}
}

// bomb is ten levels of nine references each.
func bomb() string {
	var b strings.Builder
	for c := 'b'; c < 'k'; c++ {
		p := string(c - 1)
		fmt.Fprintf(&b, "%c: &%c [*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s,*%s]\n", c, c, p, p, p, p, p, p, p, p, p)
	}
	return b.String()
}

// FuzzBodies sends any bytes as JSON, YAML and protobuf. A handler's panic would
// be answered with 500.
func FuzzBodies(f *testing.F) {
	valid := &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"}, ObjectMeta: metav1.ObjectMeta{Name: "x"}, Data: map[string]string{"k": "v"}}
	for _, info := range scheme.Codecs.SupportedMediaTypes() {
		data, err := runtime.Encode(scheme.Codecs.EncoderForVersion(info.Serializer, corev1.SchemeGroupVersion), valid)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{}]}`))
	f.Add([]byte("a: &a [*a]"))
	s := startServer(f, raftstoretest.New(f))
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := clientOf(f, s, admin).CoreV1().Namespaces().Create(f.Context(), ns, metav1.CreateOptions{}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, contentType := range []string{jsonType, yamlType, protobufType} {
			if code, answer := post(t, s, contentType, body); code == http.StatusInternalServerError {
				t.Errorf("%s: %d %s", contentType, code, answer)
			}
		}
	})
}
