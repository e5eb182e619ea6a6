package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// failsFile in a node's data directory makes its podgc controller panic, in the program
// that breakable builds.
const failsFile = "podgc-fails"

// breakable builds the program out of this source with one difference, which is in no
// file of it: the compiler is given another text of a controller (go build -overlay).
func breakable(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, "controllers", "podgc", "controller.go")
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	const start = "func (c *Controller) sync(ctx context.Context, _ string) error {\n"
	if strings.Count(string(text), start) != 1 {
		t.Fatalf("%s has no sync as this test knows it; give it another place to break", source)
	}
	broken := strings.Replace(string(text), start, start+"\tfailIfTold()\n", 1) + fmt.Sprintf(`
func failIfTold() {
	if _, err := os.Stat(os.Getenv("KONTIKI_DATA_DIR") + %q); err == nil {
		panic("a test wants it")
	}
}
`, "/"+failsFile)
	broken = strings.Replace(broken, "import (\n", "import (\n\t\"os\"\n", 1)
	replacement := filepath.Join(dir, "controller.go")
	if err := os.WriteFile(replacement, []byte(broken), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {source: replacement}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "kontiki")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-overlay", overlayFile, "-o", program, "./cmd/kontiki")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program that can fail: %v\n%s", err, out)
	}
	return program
}

// TestLeadershipMovesFromAFailingController: a controller that does not stay up on the
// leader is seen in its status and metrics, and another node leads, where it works.
func TestLeadershipMovesFromAFailingController(t *testing.T) {
	if os.Getenv("KONTIKI_LONG") == "" {
		t.Skip("needs KONTIKI_LONG=1, as make jepsen sets it: it builds the program anew, and waits until a controller is given up")
	}
	if os.Getenv("KONTIKI_BIN") == "" {
		t.Skip("needs the built program: run make test")
	}
	c := newLab(t, lab.Config{Name: "failing", Binary: breakable(t)}, 3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.Up(ctx, t.Output()); err != nil {
		t.Fatal(err)
	}
	first := c.agreedLeader(t)
	if err := os.WriteFile(filepath.Join(first.DataDir(), failsFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// A pod of a node that never was is what podgc alone removes. It fails at it, each time.
	c.kubectl(t, first, "create", "-f", filepath.Join("testdata", "lost-pod.yaml"))
	c.awaitAccount(t, first, "a word about the controller", func(a account) bool { return a.complains("controller podgc stopped on this node") })
	c.eventually(t, "another leader than "+first.Name, func(ctx context.Context) error {
		if now := c.leader(t, c.others(first)[0]); now.Name == first.Name {
			return errors.New("it leads still")
		}
		return nil
	})
	second := c.agreedLeader(t)
	if running, restarts := c.controllerMetrics(t, first, "podgc"); running != "0" || restarts != "9" {
		t.Errorf("on %s podgc runs: %s, restarts: %s; want 0, 9", first.Name, running, restarts)
	}
	c.eventually(t, "podgc to run on "+second.Name, func(context.Context) error {
		if running, restarts := c.controllerMetrics(t, second, "podgc"); running != "1" || restarts != "0" {
			return fmt.Errorf("it runs: %s, restarts: %s", running, restarts)
		}
		return nil
	})
	client := c.client(t, second)
	c.eventually(t, "the pod of a node that is not there to be removed", func(ctx context.Context) error {
		pods, err := client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d pods are there", len(pods.Items))
		}
		return err
	})
}

// controllerMetrics reads what a node's /metrics say of a controller.
func (c *cluster) controllerMetrics(t *testing.T, h *lab.Host, name string) (running, restarts string) {
	t.Helper()
	for line := range strings.Lines(c.kubectl(t, h, "get", "--raw", "/metrics")) {
		if v, ok := strings.CutPrefix(line, `kontiki_controller_running{controller="`+name+`"} `); ok {
			running = strings.TrimSpace(v)
		}
		if v, ok := strings.CutPrefix(line, `kontiki_controller_restarts_total{controller="`+name+`"} `); ok {
			restarts = strings.TrimSpace(v)
		}
	}
	return running, restarts
}
