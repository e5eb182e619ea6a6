package agent

import "net/http"

// Handler serves the agent's endpoint in kubelet's URL shapes. Who may call it
// is decided before it, by the port's TLS and the API server.
func (a *Agent) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("ok"))
	})
	return mux
}
