package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"kontiki/jepsen/lab"
)

// TestRecovery loses two of three nodes, recovers on the third, has blank nodes join, and
// has the old majority come back.
func TestRecovery(t *testing.T) {
	c := newCluster(t, "reco", 3)
	n1, n2, n3 := c.Hosts()[0], c.Hosts()[1], c.Hosts()[2]
	c.note(t, n3, "before")
	shown := c.revision(t, n3)

	c.kill(t, n1)
	c.kill(t, n2)
	c.awaitAccount(t, n3, "the loss of the leader", func(a account) bool { return a.Leader == "" })
	if out := c.command(t, n3, "recover"); !strings.Contains(out, "stop kontiki on n3") || !strings.Contains(out, "n1 (") {
		t.Errorf("a running survivor tells:\n%s", out)
	}
	c.stop(t, n3)
	if out, err := c.try(t.Context(), n3, "recover"); err == nil || !strings.Contains(out, "run the command again with --yes") {
		t.Errorf("recover without --yes: %v\n%s", err, out)
	}
	t.Log(c.command(t, n3, "recover", "--yes"))
	c.start(t, n3)
	c.awaitAccount(t, n3, "n3 to be the cluster", func(a account) bool { return a.Phase == "running" && a.Leader == a.ID && a.inGroup() == 1 })
	c.awaitAccount(t, n3, "a word about those that were left behind", func(a account) bool {
		return a.role("n1") == "lost" && a.role("n2") == "lost" && strings.Contains(a.why("n1"), "reset --membership") &&
			(a.complains("recovered without n1, n2") || a.complains("recovered without n2, n1"))
	})
	c.has(t, n3, "before")
	c.note(t, n3, "after")
	for _, revision := range []uint64{shown, shown + 1000} { // what was shown, and what lost nodes may have shown
		c.mustRelist(t, n3, revision)
	}

	t.Run("blank nodes join", func(t *testing.T) {
		for range 2 {
			h, err := c.Add()
			if err != nil {
				t.Fatal(err)
			}
			c.start(t, h)
			c.awaitAccount(t, n3, h.Name+" to be a member", func(a account) bool { return a.role(h.Name) != "" })
			c.has(t, h, "after")
		}
	})
	t.Run("the old majority is refused, and both sides say so", func(t *testing.T) {
		c.start(t, n1)
		c.start(t, n2)
		c.awaitAccount(t, n1, "the old majority to go on", func(a account) bool { return a.Leader != "" && len(a.Members) == 3 })
		c.awaitAccount(t, n1, "a word about the new epoch", func(a account) bool {
			return a.complains("kontiki reset --membership") && a.complains("this node among them")
		})
		c.awaitAccount(t, n3, "a word about the old epoch", func(a account) bool { return a.complains("was left behind") })
		c.note(t, n3, "meanwhile")
		if a := c.account(t, n3); a.Leader != a.ID || a.inGroup() != 3 {
			t.Errorf("the new epoch was harmed: %+v", a)
		}
	})
	t.Run("a member of it joins once it was made blank", func(t *testing.T) {
		id := c.account(t, n1).ID
		c.stop(t, n1)
		if out, err := c.try(t.Context(), n1, "reset", "--membership"); err == nil || !strings.Contains(out, "--yes") {
			t.Errorf("reset without --yes: %v\n%s", err, out)
		}
		c.command(t, n1, "reset", "--membership", "--yes")
		c.start(t, n1)
		c.awaitAccount(t, n1, "n1 to be in the new epoch with its name and id", func(a account) bool {
			return a.Phase == "running" && a.ID == id && a.Cluster != "" && strings.HasSuffix(a.role("n1"), "voter") && a.role("n2") == "lost" && a.role("n4") != ""
		})
		c.has(t, n1, "meanwhile")
		c.runsPods(t, n1)
	})
}

// TestSnapshot saves a cluster, goes on, loses all of it, and restores it on empty nodes.
func TestSnapshot(t *testing.T) {
	c := newCluster(t, "snap", 3)
	n1 := c.Hosts()[0]
	c.note(t, n1, "saved")
	if err := c.secret(t.Context(), n1); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, key := filepath.Join(dir, "cluster.snapshot"), filepath.Join(dir, "kek")
	t.Log(c.command(t, c.Hosts()[1], "snapshot", "save", file, "--with-key", key))
	for _, path := range []string{file, key} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	var streamed bytes.Buffer
	if err := n1.Exec(t.Context(), nil, &streamed, io.Discard, "kontiki", "snapshot", "save", "-"); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	if err := n1.Exec(t.Context(), &streamed, &seen, &seen, "kontiki", "snapshot", "inspect", "-"); err != nil || !strings.Contains(seen.String(), "whole") {
		t.Errorf("a snapshot that was piped: %v\n%s", err, seen.String())
	}
	inspected := c.command(t, n1, "snapshot", "inspect", file)
	if !strings.Contains(inspected, "/registry/configmaps/") || !strings.Contains(inspected, c.account(t, n1).Cluster) {
		t.Errorf("inspect tells:\n%s", inspected)
	}
	c.note(t, n1, "lost")
	follower := follow(t, c.client(t, n1))
	c.eventually(t, "an informer to hold what is there", func(context.Context) error { return follower.holds("lost", "saved") })
	future := c.revision(t, n1) + 500
	for _, h := range c.Hosts() {
		c.stop(t, h)
		c.command(t, h, "reset", "--membership", "--yes")
	}
	c.badRestores(t, n1, file, key)
	t.Log(c.command(t, n1, "snapshot", "restore", file, "--key", key))
	c.start(t, n1)
	c.awaitAccount(t, n1, "n1 to be the cluster", func(a account) bool { return a.Phase == "running" && a.Leader == a.ID })
	c.has(t, n1, "saved")
	client := c.client(t, n1)
	if got, err := client.CoreV1().Secrets("default").Get(t.Context(), "kept", metav1.GetOptions{}); err != nil || string(got.Data["word"]) != "open" {
		t.Errorf("the Secret: %v, %v", got, err)
	}
	if _, err := client.CoreV1().ConfigMaps("default").Get(t.Context(), "lost", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what was written after the snapshot: %v", err)
	}
	c.mustRelist(t, n1, future)
	c.note(t, n1, "since")
	c.eventually(t, "the informer that lived through it to hold what is there now", func(context.Context) error { return follower.holds("saved", "since") })
	for _, h := range c.Hosts()[1:] {
		c.start(t, h)
		c.awaitAccount(t, h, h.Name+" to be a member again", func(a account) bool { return a.Phase == "running" && a.role(h.Name) != "" })
		c.has(t, h, "saved")
	}
	c.runsPods(t, c.Hosts()[2])
}

// follower is an informer of the notes, as a controller has one.
type follower struct{ cache.SharedIndexInformer }

func follow(t *testing.T, client kubernetes.Interface) follower {
	ctx, stop := context.WithCancel(context.Background())
	shared := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "metadata.name!=kube-root-ca.crt" // a controller's
	}))
	f := follower{shared.Core().V1().ConfigMaps().Informer()}
	shared.Start(ctx.Done())
	t.Cleanup(func() { stop(); shared.Shutdown() })
	return f
}

// holds says whether it holds these notes and no others.
func (f follower) holds(want ...string) error {
	var got []string
	for _, key := range f.GetStore().ListKeys() {
		got = append(got, strings.TrimPrefix(key, "default/"))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("it holds %v, want %v", got, want)
	}
	return nil
}

// inGroup counts the members of the Raft group; those that are away are not in it.
func (a account) inGroup() (n int) {
	for _, m := range a.Members {
		if m.Role == "voter" || m.Role == "non-voter" {
			n++
		}
	}
	return n
}

// badRestores tries what must change nothing.
func (c *cluster) badRestores(t *testing.T, h *lab.Host, file, key string) {
	t.Helper()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	flipped := append([]byte(nil), whole...)
	flipped[len(flipped)/2] ^= 4
	wrongKey := append([]byte(nil), text...)
	wrongKey[len(wrongKey)-2] ^= 1
	other := append([]byte("0"), text...)
	for name, step := range map[string]struct {
		file, key []byte
		want      string
	}{
		"cut short":          {whole[:len(whole)-100], text, "cut short"},
		"a flipped bit":      {flipped, text, "damaged"},
		"no snapshot":        {[]byte("something else altogether"), text, "no snapshot"},
		"a wrong key":        {whole, wrongKey, "key-encryption key"},
		"another's key":      {whole, other, "sealed with key"},
		"no key in the file": {whole, []byte("no key\n"), "not a key-encryption key"},
	} {
		f, k := filepath.Join(dir, "f"), filepath.Join(dir, "k")
		if err := os.WriteFile(f, step.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(k, step.key, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := c.try(t.Context(), h, "snapshot", "restore", f, "--key", k); err == nil || !strings.Contains(out, step.want) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if left, err := filepath.Glob(filepath.Join(h.DataDir(), "raft*")); err != nil || len(left) > 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
	}
}

// note writes a ConfigMap, and has looks for it through a host's own API.
func (c *cluster) note(t *testing.T, h *lab.Host, name string) {
	t.Helper()
	client := c.client(t, h)
	c.eventually(t, "the note "+name+" to be taken", func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func (c *cluster) has(t *testing.T, h *lab.Host, name string) {
	t.Helper()
	c.eventually(t, h.Name+" to show the note "+name, func(ctx context.Context) error {
		client, err := h.Client() // its certificate may be new
		if err != nil {
			return err
		}
		_, err = client.CoreV1().ConfigMaps("default").Get(ctx, name, metav1.GetOptions{})
		return err
	})
}

func (c *cluster) secret(ctx context.Context, h *lab.Host) error {
	client, err := h.Client()
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string][]byte{"word": []byte("open")},
	}, metav1.CreateOptions{})
	return err
}

// revision is the latest that a host's API shows.
func (c *cluster) revision(t *testing.T, h *lab.Host) (revision uint64) {
	t.Helper()
	list, err := c.client(t, h).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err == nil {
		_, err = fmt.Sscan(list.ResourceVersion, &revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

// mustRelist watches as a client does that was shown a revision before the cluster was
// recovered: it is told to list anew, and at once.
func (c *cluster) mustRelist(t *testing.T, h *lab.Host, revision uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := firstOf(ctx, c.client(t, h), fmt.Sprint(revision))
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("a watch after revision %d: %v, want that it has expired", revision, err)
	}
	// Such a client lists with what it knows first, and must not wait for that either.
	began := time.Now()
	if _, err := c.client(t, h).CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{ResourceVersion: fmt.Sprint(revision)}); err != nil {
		t.Errorf("a list not older than revision %d, after %v: %v", revision, time.Since(began), err)
	}
}

// firstOf is what a watch says first, if that is an error.
func firstOf(ctx context.Context, client kubernetes.Interface, revision string) error {
	w, err := client.CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{ResourceVersion: revision})
	if err != nil {
		return err
	}
	defer w.Stop()
	e, open := <-w.ResultChan()
	if !open || e.Type != watch.Error {
		return fmt.Errorf("the watch goes on with %+v", e)
	}
	return apierrors.FromObject(e.Object)
}
