package apiserver

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestColumns wants the columns that a kube-apiserver v1.37.2 prints, with their
// types and whether only `-o wide` shows them. columns.txt holds a line for each kind.
func TestColumns(t *testing.T) {
	f := newFixture(t)
	file, err := os.Open("testdata/columns.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		name, want, _ := strings.Cut(lines.Text(), ": ")
		i := strings.LastIndex(name, "/")
		gv, err := schema.ParseGroupVersion(name[:i])
		if err != nil {
			t.Fatal(err)
		}
		m, err := f.mapper.RESTMapping(gv.WithKind(name[i+1:]).GroupKind(), gv.Version)
		if meta.IsNoMatchError(err) {
			t.Errorf("%s is not served", name)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var table metav1.Table
		if err := json.Unmarshal(f.raw(t, m.Resource, "application/json;as=Table;v=v1;g=meta.k8s.io", "?limit=1"), &table); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range table.ColumnDefinitions {
			got = append(got, fmt.Sprintf("%s %s/%s %d", c.Name, c.Type, c.Format, c.Priority))
		}
		if got := strings.Join(got, " | "); got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}
