package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// rule is a ban, with the reason that is shown to whoever breaks it and the
// places that may.
type rule struct {
	reason  string
	allowed []string // path prefixes below the module's root
}

var (
	noInit = rule{"registration at start-up is invisible and runs in every process of this binary; call it from where it is needed", []string{
		"cmd/kontiki-shim/", // the re-exec entry of a container's init must run before main
		"runtime/shim/server/",
	}}
	noExit = rule{"only a command ends the process: return an error", []string{
		"cmd/", "examples/",
		"jepsen/witness/", // what containers of a proof run
		"bench/",          // a command, too
		"runtime/shim/",   // the shim's own process and what it re-executes
	}}
	noContextField = rule{"a context belongs to a call; one in a struct hides who cancels what", []string{
		"apiserver/storage/",  // upstream's interfaces hand over a context with the watch that it bounds
		"apiserver/",          // requests in memory carry theirs
		"gossip/transport.go", // memberlist's interface carries none
		"raftstore/store.go",  // the store's own life, which bounds what it does for itself
		"raftstore/sim_",      // a simulated schedule's life, which bounds what runs beside its steps
		"runtime/image/",      // a visitor of one call, gone when the call returns
		"runtime/pod/",        // likewise
	}}
	noSleep = rule{"a test waits for a condition, bounded, and says what it waited for; time passes only in a synctest bubble", []string{
		"gossip/lab_test.go", // the lab of tests that all run in bubbles
		"raftstore/sim_",     // likewise
	}}
	noUnmarked = rule{"finish it or write it into an issue", nil}
	skipReason = rule{"a test is skipped only for what the machine lacks; say it as \"needs …\"", nil}
	fileLength = rule{"a file this long swallows the room: one concept, one file", nil}
)

const maxLines = 600

var bannedPackageNames = []string{"util", "utils", "common", "helpers", "helper", "structs", "types", "misc"}

func (r rule) allows(path string) bool {
	return slices.ContainsFunc(r.allowed, func(prefix string) bool { return strings.HasPrefix(path, prefix) })
}

// source is a parsed file.
type source struct {
	path string // relative to the module's root
	text string
	file *ast.File
	fset *token.FileSet
}

func sources(t *testing.T) []source {
	t.Helper()
	root := moduleRoot(t)
	var all []source
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() && (rel == "bin" || strings.HasPrefix(d.Name(), ".") && rel != ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasPrefix(d.Name(), "zz_generated") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, rel, text, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{rel, string(text), file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func moduleRoot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestCodeKeepsTheRules(t *testing.T) {
	for _, s := range sources(t) {
		if strings.HasPrefix(s.path, "internal/house/") {
			continue // it names what it bans
		}
		s.checkFile(t)
		ast.Inspect(s.file, func(n ast.Node) bool {
			s.checkNode(t, n)
			return true
		})
	}
}

func (s source) breaks(t *testing.T, n ast.Node, what string, r rule) {
	t.Helper()
	if !r.allows(s.path) {
		t.Errorf("%s: %s: %s", s.fset.Position(n.Pos()), what, r.reason)
	}
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) checkFile(t *testing.T) {
	if lines := strings.Count(s.text, "\n"); lines > maxLines {
		s.breaks(t, s.file, "more than 600 lines", fileLength)
	}
	if slices.Contains(bannedPackageNames, strings.TrimSuffix(s.file.Name.Name, "_test")) {
		t.Errorf("%s: package %s: name what a thing is", s.path, s.file.Name.Name)
	}
	for _, group := range s.file.Comments {
		for _, c := range group.List {
			for _, mark := range []string{"TODO", "FIXME", "XXX"} {
				if strings.Contains(c.Text, mark) {
					s.breaks(t, c, mark, noUnmarked)
				}
			}
		}
	}
}

func (s source) checkNode(t *testing.T, n ast.Node) {
	switch n := n.(type) {
	case *ast.FuncDecl:
		if n.Name.Name == "init" && n.Recv == nil {
			s.breaks(t, n, "func init", noInit)
		}
	case *ast.StructType:
		for _, field := range n.Fields.List {
			if selects(field.Type, "context", "Context") {
				s.breaks(t, field, "a context in a struct", noContextField)
			}
		}
	case *ast.CallExpr:
		switch {
		case selects(n.Fun, "time", "Sleep") && s.test() && !strings.Contains(s.text, `"testing/synctest"`):
			s.breaks(t, n, "time.Sleep in a test", noSleep)
		case selects(n.Fun, "os", "Exit") && !s.test():
			s.breaks(t, n, "os.Exit", noExit)
		case selects(n.Fun, "t", "Skip"), selects(n.Fun, "t", "Skipf"), selects(n.Fun, "b", "Skip"):
			lit, ok := n.Args[0].(*ast.BasicLit)
			if !ok || !strings.HasPrefix(lit.Value, `"needs `) {
				s.breaks(t, n, "skipped test", skipReason)
			}
		}
	}
}

// selects tells whether an expression is pkg.name.
func selects(e ast.Expr, pkg, name string) bool {
	sel, ok := e.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	id, ok := sel.X.(*ast.Ident)
	return ok && id.Name == pkg && sel.Sel.Name == name
}
