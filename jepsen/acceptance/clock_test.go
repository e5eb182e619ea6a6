package acceptance

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kontiki/jepsen/lab"
)

// startIn1970 starts the node of a host whose clock was never set.
func startIn1970(t *testing.T, h *lab.Host) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.StartWith([]string{self, "in1970"}); err != nil {
		t.Fatal(err)
	}
}

// TestClockOf1970 founds a cluster with a machine whose clock begins in 1970 each time it
// is switched on, has it serve and run pods, and switches it off and on again.
func TestClockOf1970(t *testing.T) {
	c := newLab(t, lab.Config{Name: "clock"}, 3)
	n1, n3 := c.Hosts()[0], c.Hosts()[2]
	startNodes(t, c.Hosts()[:2])
	startIn1970(t, n3)
	c.waitFormed(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var says bytes.Buffer
	if err := n3.Exec(t.Context(), nil, &says, &says, self, "in1970", "date", "+%Y"); err != nil || strings.TrimSpace(says.String()) != "1970" {
		t.Fatalf("the clock on n3 says %q, %v", says.String(), err)
	}
	c.servesInSpite(t, n1, n3, "first")
	c.runsPods(t, n3)

	// It leads, too.
	c.eventually(t, "n3 to lead", func(ctx context.Context) error {
		leader := c.leader(t, n1)
		if leader.Name == n3.Name {
			return nil
		}
		if err := leader.Signal(ctx, syscall.SIGTERM); err != nil {
			return err
		}
		if err := leader.Start(); err != nil {
			return err
		}
		return fmt.Errorf("%s led", leader.Name)
	})
	c.servesInSpite(t, n1, n3, "leading")

	if err := n3.Signal(t.Context(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.eventually(t, "another to lead", func(ctx context.Context) error {
		_, err := c.client(t, n1).CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "without-"}}, metav1.CreateOptions{})
		return err
	})
	startIn1970(t, n3)
	c.awaitAccount(t, n1, "n3 to be alive again", func(a account) bool {
		for _, m := range a.Members {
			if m.Name == "n3" {
				return m.Health == "alive"
			}
		}
		return false
	})
	c.servesInSpite(t, n1, n3, "again")
	c.runsPods(t, n3)
}

// servesInSpite checks that a node says what is wrong with its clock, that what is
// written through it is read elsewhere, the other way round, and that nothing that has a
// time to live dies of it.
func (c *cluster) servesInSpite(t *testing.T, n1, n3 *lab.Host, name string) {
	t.Helper()
	c.awaitAccount(t, n3, "n3 to run and to complain of its clock", func(a account) bool {
		return a.Phase == "running" && a.complains("the machine's clock is")
	})
	for _, way := range [][2]*lab.Host{{n1, n3}, {n3, n1}} {
		from, to := way[0], way[1]
		made := fmt.Sprintf("%s-by-%s", name, from.Name)
		event := &corev1.Event{ObjectMeta: metav1.ObjectMeta{Name: made}, InvolvedObject: corev1.ObjectReference{Namespace: "default"},
			EventTime: metav1.NowMicro(), ReportingController: "test", ReportingInstance: "test", Action: "Test", Reason: "Test", Type: corev1.EventTypeNormal}
		c.eventually(t, "an event to be written through "+from.Name, func(ctx context.Context) error {
			_, err := c.client(t, from).CoreV1().Events("default").Create(ctx, event, metav1.CreateOptions{})
			return err
		})
		c.eventually(t, "it to be read through "+to.Name, func(ctx context.Context) error {
			_, err := c.client(t, to).CoreV1().Events("default").Get(ctx, made, metav1.GetOptions{})
			return err
		})
	}
	minutes := int64(600)
	token, err := c.client(t, n3).CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &minutes}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	client := c.client(t, n1)
	review, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token.Status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		t.Errorf("a token that n3 issued, shown to n1: %+v, %v", review.Status, err)
	}
	for _, made := range []string{name + "-by-n1", name + "-by-n3"} {
		if _, err := client.CoreV1().Events("default").Get(t.Context(), made, metav1.GetOptions{}); err != nil {
			t.Errorf("the event %s: %v", made, err)
		}
	}
}
