package apiserver

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"kontiki/raftstore/raftstoretest"
)

//go:generate env KONTIKI_GENERATE=1 go test -count=1 -run ^TestDocument$ .

// TestDocument wants docs/API.md to say what is served, and writes it for go generate.
func TestDocument(t *testing.T) {
	d, err := discovery.NewDiscoveryClientForConfig(jsonConfig(startServer(t, raftstoretest.New(t), withAccountKey(t))))
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := d.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	got := document(lists)
	path := filepath.Join("..", "docs", "API.md")
	if os.Getenv("KONTIKI_GENERATE") != "" {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("docs/API.md is stale: run go generate ./apiserver")
	}
}

const documentHead = `# The API

What a node serves, made from the code by ` + "`go generate ./apiserver`" + `: all stable kinds of Kubernetes
1.37, and ` + "`metrics.k8s.io/v1beta1`" + `. Whatever CustomResourceDefinitions and APIServices add comes on
top of it. Verbs: **c**reate, **g**et, **l**ist, **w**atch, **u**pdate, **p**atch, **d**elete, delete **C**ollection.
`

func document(lists []*metav1.APIResourceList) []byte {
	lists = slices.Clone(lists)
	slices.SortFunc(lists, func(a, b *metav1.APIResourceList) int { return cmp.Compare(a.GroupVersion, b.GroupVersion) })
	// The group without a name comes first.
	slices.SortStableFunc(lists, func(a, b *metav1.APIResourceList) int {
		return cmp.Compare(strings.Count(a.GroupVersion, "/"), strings.Count(b.GroupVersion, "/"))
	})
	out := bytes.NewBufferString(documentHead)
	for _, list := range lists {
		parts := map[string][]string{}
		for _, r := range list.APIResources {
			if of, part, ok := strings.Cut(r.Name, "/"); ok {
				parts[of] = append(parts[of], fmt.Sprintf("%s (%s)", part, letters(r.Verbs)))
			}
		}
		fmt.Fprintf(out, "\n## %s\n\n| Kind | Resource | Scope | Verbs | Subresources |\n|---|---|---|---|---|\n", list.GroupVersion)
		for _, r := range slices.SortedFunc(slices.Values(list.APIResources), func(a, b metav1.APIResource) int { return cmp.Compare(a.Name, b.Name) }) {
			if strings.Contains(r.Name, "/") {
				continue
			}
			names := slices.Concat([]string{r.Name}, r.ShortNames)
			scope := "cluster"
			if r.Namespaced {
				scope = "namespace"
			}
			slices.Sort(parts[r.Name])
			fmt.Fprintf(out, "| %s | %s | %s | %s | %s |\n", r.Kind, strings.Join(names, ", "), scope, letters(r.Verbs), strings.Join(parts[r.Name], ", "))
		}
	}
	return out.Bytes()
}

func letters(verbs metav1.Verbs) string {
	var out strings.Builder
	for _, v := range []struct{ verb, letter string }{
		{"create", "c"}, {"get", "g"}, {"list", "l"}, {"watch", "w"},
		{"update", "u"}, {"patch", "p"}, {"delete", "d"}, {"deletecollection", "C"},
	} {
		if slices.Contains(verbs, v.verb) {
			out.WriteString(v.letter)
		}
	}
	return out.String()
}
