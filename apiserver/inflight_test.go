package apiserver

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/kubernetes/scheme"
)

// TestUsersDoNotStarveTheSystem fills the users' class and wants everybody else
// to be served, and users again once a request has ended.
func TestUsersDoNotStarveTheSystem(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	f := &inflight{
		next: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Wait") != "" {
				entered <- struct{}{}
				<-leave
			}
			w.WriteHeader(http.StatusOK)
		}),
		long:       func(_ *http.Request, info *request.RequestInfo) bool { return info.Verb == "watch" },
		serializer: scheme.Codecs,
		system:     newClass(1, 1), users: newClass(1, 1),
	}
	do := func(u user.DefaultInfo, verb string, wait string) int {
		ctx := request.WithRequestInfo(t.Context(), &request.RequestInfo{IsResourceRequest: true, Verb: verb, APIVersion: "v1", Resource: "pods"})
		r := httptest.NewRequestWithContext(request.WithUser(ctx, &u), http.MethodGet, "/api/v1/pods", nil)
		r.Header.Set("Wait", wait)
		w := httptest.NewRecorder()
		f.ServeHTTP(w, r)
		return w.Code
	}
	jane := user.DefaultInfo{Name: "jane", Groups: []string{"developers"}}
	ended := make(chan int, 1)
	go func() { ended <- do(jane, "create", "yes") }()
	<-entered
	for _, c := range []struct {
		who  string
		user user.DefaultInfo
		verb string
		want int
	}{
		{"the user", jane, "create", http.StatusTooManyRequests},
		{"the user's reads", jane, "list", http.StatusOK},
		{"the user's watches", jane, "watch", http.StatusOK},
		{"a node", user.DefaultInfo{Name: "system:node:a", Groups: []string{user.NodesGroup}}, "create", http.StatusOK},
		{"the controllers", user.DefaultInfo{Name: user.KubeControllerManager}, "create", http.StatusOK},
		{"the scheduler", user.DefaultInfo{Name: user.KubeScheduler}, "create", http.StatusOK},
		{"the server", user.DefaultInfo{Name: user.APIServerUser}, "create", http.StatusOK},
		{"an administrator", user.DefaultInfo{Name: "root", Groups: []string{user.SystemPrivilegedGroup}}, "create", http.StatusOK},
	} {
		if got := do(c.user, c.verb, ""); got != c.want {
			t.Errorf("%s: %d, want %d", c.who, got, c.want)
		}
	}
	close(leave)
	if got := <-ended; got != http.StatusOK {
		t.Errorf("the request that was under way: %d", got)
	}
	if got := do(jane, "create", ""); got != http.StatusOK {
		t.Errorf("the user, later: %d", got)
	}
}
